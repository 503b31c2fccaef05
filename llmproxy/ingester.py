"""The ingester's process: takes the spool's lock, and ingests until it is told to end."""

import asyncio
import json
import logging
import signal
import sys
import time

from llmproxy.capture.spool_lock import SpoolLock
from llmproxy.capture.spool_reader import backlog
from llmproxy.config import CaptureConfig
from llmproxy.hooks import load_hooks
from llmproxy.ingest import Ingester
from llmproxy.supervisor import DRAIN_SECONDS

LOCK_POLL_SECONDS = 0.5
# How long the database may refuse before the end is not put off any more; what is left stays in the spool.
PATIENCE_SUPERVISED = 5.0
PATIENCE_DRAIN = 30.0

logger = logging.getLogger("llmproxy.ingest")


def supervise() -> int:
    """Under `serve`: settings are the first line of standard input, its end is the signal to drain and end."""
    capture = CaptureConfig.model_validate(json.loads(sys.stdin.buffer.readline()))
    # systemd tells all processes of a service to end: we end after the server, whose streams have their grace.
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGTTOU):
        signal.signal(sig, signal.SIG_IGN)
    return asyncio.run(_run(capture, drain=False, until_eof=True))


def follow(capture: CaptureConfig, *, drain: bool) -> int:
    """By itself. Returns the exit code."""
    return asyncio.run(_run(capture, drain=drain, until_eof=False))


async def _run(capture: CaptureConfig, *, drain: bool, until_eof: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if not until_eof:
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, stop.set)
    else:

        def at_eof() -> None:
            loop.remove_reader(sys.stdin.fileno())  # it stays readable
            stop.set()

        loop.add_reader(sys.stdin.fileno(), at_eof)
    hooks = load_hooks(capture.hooks)
    lock = SpoolLock(capture.spool_path)
    try:
        if not await _acquire(lock, capture, stop, drain=drain):
            return 0
        ingester = Ingester(capture, hooks, gives_way=until_eof)
        try:
            if drain:
                emptied = await ingester.drain(patience=PATIENCE_DRAIN)
                logger.info("%d exchanges ingested", ingester.ingested)
            else:
                emptied = await ingester.run(stop, patience=PATIENCE_SUPERVISED, at_most=DRAIN_SECONDS)
        finally:
            ingester.close()
        return 0 if emptied else 1
    finally:
        lock.close()


async def _acquire(lock: SpoolLock, capture: CaptureConfig, stop: asyncio.Event, *, drain: bool) -> bool:
    """Wait for the lock. False where there is nothing left to do: told to end, or another ingester did the work."""
    told = False
    deadline = time.monotonic() + PATIENCE_DRAIN
    while not lock.acquire():
        if not told:
            logger.info("process %s ingests %s already; waiting for it", lock.holder(), capture.spool_path)
            told = True
        if stop.is_set():
            return False
        if drain and (not backlog(capture.spool_path)["waiting_bytes"] or time.monotonic() > deadline):
            # What waits still is in flight, or the other ingester has its own trouble and tells it.
            return False
        await asyncio.sleep(LOCK_POLL_SECONDS)
    return True

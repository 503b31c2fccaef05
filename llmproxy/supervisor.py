"""The ingester as a child of `serve`: started, started again where it dies, and told to end by the end of its input."""

import json
import logging
import subprocess
import sys
import threading
import time

from llmproxy.config import CaptureConfig

# How long it goes on after its input has ended. Under the 10 s after which `docker stop` kills.
DRAIN_SECONDS = 5.0
# What a transaction may take besides, before it is killed.
LAST_SECONDS = 2.0
# Seconds until it is started again; twice as many each time, where it ends soon.
SHORTEST_PAUSE = 0.5
LONGEST_PAUSE = 30.0

logger = logging.getLogger("llmproxy")


class IngesterProcess:
    """Keeps one ingester running: starts it again when it dies, tells it to drain and end by closing its input.

    The input is a pipe that we alone hold, so an ingester also drains and ends when we are killed. What it does not
    get to within `DRAIN_SECONDS` stays in the spool for the next one.
    """

    def __init__(self, capture: CaptureConfig) -> None:
        self._settings = json.dumps(capture.model_dump(mode="json")).encode() + b"\n"
        self._ending = threading.Event()
        self._spawning = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="ingester", daemon=True)

    def start(self) -> None:
        self._spawn()
        self._thread.start()

    def stop(self, *, at_once: bool = False) -> None:
        """Let it drain and end; or kill it, which leaves what it has not got to in the spool too."""
        with self._spawning:
            self._ending.set()
        process = self._process
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(0.0 if at_once else DRAIN_SECONDS + LAST_SECONDS)
            except subprocess.TimeoutExpired:
                if not at_once:
                    logger.warning("the ingester does not end: it is killed, and what waits stays in the spool")
                process.kill()
                process.wait()
        if self._thread.ident is not None:
            self._thread.join()

    def _spawn(self) -> None:
        with self._spawning:
            self._process = None
            if self._ending.is_set():
                return
            try:
                # A process group of its own: Ctrl-C in the terminal is for us, and the ingester ends after us. No
                # session of its own: Linux may weigh sessions against each other before processes (sched(7),
                # autogroup).
                process = subprocess.Popen(
                    [sys.executable, "-m", "llmproxy", "ingest", "--supervised"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    process_group=0,
                )
            except OSError as exc:  # no memory, or too many processes, for now
                logger.error("the ingester cannot be started: %s; exchanges wait in the spool", exc.strerror)
                return
            assert process.stdin is not None
            try:
                process.stdin.write(self._settings)
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it died at once; `_watch` tells and starts another
            self._process = process

    def _watch(self) -> None:
        pause = SHORTEST_PAUSE
        while True:
            process, begun = self._process, time.monotonic()
            if process is not None:
                code = process.wait()
                if self._ending.is_set():
                    return
                assert process.stdin is not None
                process.stdin.close()
                logger.error("the ingester ended with code %d; exchanges wait in the spool; starting it again", code)
                if time.monotonic() - begun > LONGEST_PAUSE:
                    pause = SHORTEST_PAUSE
            if self._ending.wait(pause):
                return
            pause = min(pause * 2, LONGEST_PAUSE)
            self._spawn()

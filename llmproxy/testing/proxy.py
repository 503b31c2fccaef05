"""The proxy of a test: in a thread, with the replay upstream, and with an ingester at the end where it records."""

import asyncio
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import uvicorn

from llmproxy.app import App
from llmproxy.capture.spool_reader import SpoolReader
from llmproxy.config import CaptureConfig, Config, UpstreamConfig
from llmproxy.headers import get
from llmproxy.ingest import Ingester
from llmproxy.serve import listen
from llmproxy.server.server import Server
from llmproxy.store.exchanges import REPLAY_HEADER, REPLAYED

_APP = "llmproxy.inprocess.replay:create_app"
_START_SECONDS = 30.0
_END_SECONDS = 10.0
_WRITE_SECONDS = 10.0


@contextmanager
def replay_in_thread(
    cassette: Path, providers: Mapping[str, str], *, record: bool, speed: float, match: Sequence[str]
) -> Iterator[int]:
    """Serve on a free port; see `llmproxy.testing.replaying`."""
    options = {"database": str(cassette), "speed": speed, "match": list(match)}
    with tempfile.TemporaryDirectory(prefix="llmproxy-", ignore_cleanup_errors=True) as spool:
        config = Config(
            port=0,
            upstreams={
                name: UpstreamConfig(app=_APP, options=options | _of_provider(name, base_url, record))
                for name, base_url in providers.items()
            },
            capture=CaptureConfig(enabled=record, database=cassette, spool=Path(spool), raw="all"),
        )
        with _serving(config) as port:
            yield port
        if record:
            _in_thread(_keep, config.capture)


def _of_provider(name: str, base_url: str, record: bool) -> dict[str, object]:
    if not record:
        return {"from_upstream": name}
    return {"from_upstream": name, "mode": "record", "upstream": {"base_url": base_url}}


@contextmanager
def _serving(config: Config) -> Iterator[int]:
    sock = listen(config)
    server = _Server(
        uvicorn.Config(
            App(config),
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.serve_here, args=([sock],), name="llmproxy replay", daemon=True)
    thread.start()
    try:
        server.ended_or_started.wait(_START_SECONDS)
        if not server.started:
            raise RuntimeError("llmproxy's replay did not start; the log says why")
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(_END_SECONDS)
        sock.close()


class _Server(Server):
    """uvicorn's server in a thread: signals belong to the program that tests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended_or_started = threading.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        self.ended_or_started.set()

    def serve_here(self, sockets: list[object]) -> None:
        try:
            self.run(sockets)  # type: ignore[arg-type]
        except SystemExit:
            pass  # uvicorn's way to say that the app's lifespan failed
        finally:
            self.ended_or_started.set()


def _keep(capture: CaptureConfig) -> None:
    """Put what was recorded into the cassette, and leave it one plain file, fit for version control."""
    if not _anything_new(capture):
        return
    capture.database_path.parent.mkdir(parents=True, exist_ok=True)
    ingester = Ingester(capture)
    try:
        if not asyncio.run(ingester.drain(patience=_WRITE_SECONDS)):
            raise RuntimeError(f"{capture.database_path} cannot be written; what was recorded is lost")
    finally:
        ingester.close()
    with closing(sqlite3.connect(capture.database_path, timeout=_WRITE_SECONDS, isolation_level=None)) as database:
        database.execute(
            "delete from llmproxy_exchanges where reason = ? or instr(response_headers, '\"x-llmproxy-error\"')",
            [REPLAYED],
        )
        try:
            database.execute("pragma journal_mode = delete")
            database.execute("pragma page_size = 1024")  # of forty tables most are empty, and each takes a page
            database.execute("vacuum")
        except sqlite3.OperationalError:
            pass  # another test reads it at the moment; the last one to record tidies up


def _anything_new(capture: CaptureConfig) -> bool:
    reader = SpoolReader(capture.spool_path)
    try:
        return any(get(each.load().response_headers, REPLAY_HEADER) is None for each in reader.exchanges())
    finally:
        reader.close()


def _in_thread(function: object, *arguments: object) -> None:
    """Call it in a thread of its own, since the caller may be inside an event loop. What it raises is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function(*arguments)  # type: ignore[operator]
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run, name="llmproxy keep")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]

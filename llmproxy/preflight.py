"""What must hold before anything is started."""

import os
from pathlib import Path

from llmproxy.capture.spool import make_folder
from llmproxy.config import CaptureConfig, Config, ConfigError
from llmproxy.loopback import is_loopback
from llmproxy.upstreams import load_app


def check_startable(config: Config) -> None:
    """Refuse what could not work, before anything is started. Raises `ConfigError`."""
    check_host(config)
    for name, upstream in config.upstreams.items():
        if upstream.app is not None:
            load_app(upstream.app, upstream.options, name)
    if config.capture.active:
        check_recordable(config.capture)


def check_host(config: Config) -> None:
    """Refuse to serve whoever comes. Raises `ConfigError`."""
    security = config.security
    if not is_loopback(config.host) and not security.clients and not security.insecure:
        raise ConfigError(
            f"host: {config.host} can be reached from other machines, and anyone there could use your keys:"
            " set security.clients, or pass --insecure if that is meant"
        )


def check_recordable(capture: CaptureConfig) -> None:
    """Refuse a database or a spool that can never be written. Raises `ConfigError`."""
    database = capture.database_path
    try:
        make_folder(database.parent)
        if database.is_dir():
            raise ConfigError(f"capture.database: {database} is a folder; name a file in it")
        if database.exists():
            with database.open("rb") as file:
                head = file.read(16)
            if head and head != b"SQLite format 3\0":  # https://www.sqlite.org/fileformat.html#the_database_header
                raise ConfigError(f"capture.database: {database} is not a SQLite database; name another file")
        _probe(database.parent)
    except OSError as exc:
        raise ConfigError(
            f"capture.database: {database}: the folder cannot be written: {exc.strerror}; name another with --database"
        ) from None
    spool = capture.spool_path
    try:
        make_folder(spool)
        _probe(spool)
    except OSError as exc:
        raise ConfigError(f"capture.spool: {spool} cannot be written: {exc.strerror}; choose another folder") from None


def _probe(folder: Path) -> None:
    # One name for all: what a killed process left is the next one's, and two at once do not mind each other.
    probe = folder / ".llmproxy-probe"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    probe.unlink(missing_ok=True)

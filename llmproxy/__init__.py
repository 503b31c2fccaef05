"""llmproxy: the flight recorder for programs that talk to language models.

The words, which mean the same thing everywhere in the code:

- exchange: one HTTP request and its response, as the bytes that passed, with times and outcome
- upstream: where exchanges are sent: an HTTP provider, or an in-process ASGI app
- forward: pass one exchange there and back, unchanged
- tee: keep a copy of the bytes while they pass
- spool: the durable queue of exchanges on disk between forwarding and ingesting
- ingest: take exchanges from the spool, reconstruct them, hand them to the hooks
- reconstruct: turn an exchange's bytes into a turn (pure functions, no I/O)
- turn: one model call with its meaning: ordered input messages, output messages, tools, options, usage
- thread: the conversation that a turn belongs to
- hook: an async callable that is given each turn; the built-in one writes it into the `llm` database
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmproxy.app import create_app
    from llmproxy.capture.exchange import Exchange
    from llmproxy.hooks import Hook
    from llmproxy.reconstruct.turn import Turn

__version__ = "0.1.0"
__all__ = ["Exchange", "Hook", "Turn", "__version__", "create_app"]

# Loaded when first asked for: the command line starts without them, and the serving process never loads `llm`.
_HOMES = {
    "create_app": "llmproxy.app",
    "Exchange": "llmproxy.capture.exchange",
    "Hook": "llmproxy.hooks",
    "Turn": "llmproxy.reconstruct.turn",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

"""Hooks: callables of the user's, given every turn."""

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from llmproxy.capture.exchange import Exchange
from llmproxy.config import ConfigError
from llmproxy.reconstruct.turn import Turn

Hook = Callable[[Turn, Exchange], Awaitable[None]]
"""An async callable that is given each turn and its exchange, in the ingester's process, at least once.

It may raise: it is then called again, three times in all, and neither the database nor other hooks notice.
"""

HOOK_SECONDS = 30.0
HOOK_TRIES = 3

logger = logging.getLogger("llmproxy.ingest")


def load_hooks(names: Sequence[str]) -> list[Hook]:
    """The hooks at `package.module:callable`. Raises `ConfigError` naming the one that cannot be loaded."""
    hooks = []
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            hook = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as exc:
            raise ConfigError(f"capture.hooks: {name} cannot be loaded: {exc}") from exc
        if not callable(hook):
            raise ConfigError(f"capture.hooks: {name} cannot be called")
        hooks.append(hook)
    return hooks


async def call_hooks(hooks: Sequence[Hook], turn: Turn, exchange: Exchange) -> None:
    """Give a turn to all hooks at once; returns when each has taken it or failed for good."""
    await asyncio.gather(*(_call(hook, turn, exchange) for hook in hooks))


async def _call(hook: Hook, turn: Turn, exchange: Exchange) -> None:
    for attempt in range(1, HOOK_TRIES + 1):
        try:
            async with asyncio.timeout(HOOK_SECONDS):
                await hook(turn, exchange)
            return
        except Exception:  # a hook is somebody else's code: whatever it raises is told and must not stop ingest
            logger.exception("hook %s failed for exchange %s (try %d)", _name(hook), exchange.id, attempt)
            if attempt < HOOK_TRIES:
                await asyncio.sleep(attempt)


def _name(hook: Hook) -> str:
    return getattr(hook, "__qualname__", repr(hook))

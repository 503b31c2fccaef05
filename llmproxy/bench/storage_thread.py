"""The database in a thread, so that no wait for it is ever a part of what is measured."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from llmproxy.bench.storage import Storage
from llmproxy.store.captured import CapturedTurn, read_turn

T = TypeVar("T")
P = ParamSpec("P")

# Prompts go to their targets one after the other, so that a few are enough.
_TURNS_KEPT = 64


class StorageThread:
    """A `Storage` of its own, used in one thread. One that writes may wait long for an ingester; one that reads does
    not."""

    def __init__(self, path: Path) -> None:
        """Raises what `Storage` does."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bench storage")
        self.storage = self._thread.submit(Storage, path).result()
        self._turn = lru_cache(maxsize=_TURNS_KEPT)(lambda id: read_turn(self.storage.db.conn, id))

    def turn(self, turn_id: str) -> CapturedTurn | None:
        """A captured turn; in the thread only."""
        return self._turn(turn_id)

    async def run(self, function: Callable[Concatenate["StorageThread", P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function gives that is called with this, in the thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(self, *args, **kwargs))

    def now(self, function: Callable[[Storage], T]) -> T:
        """The same where no loop runs."""
        return self._thread.submit(function, self.storage).result()

    def close(self) -> None:
        self._thread.submit(self.storage.close).result()
        self._thread.shutdown()

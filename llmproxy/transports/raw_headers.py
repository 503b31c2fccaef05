"""Header fields as httpx2 wants them, without the work that nobody asks for."""

from functools import cached_property

import httpx2

from llmproxy.headers import Header


class RawHeaders(httpx2.Headers):
    """Fields as they came. What httpx2 looks names up in is made when somebody does."""

    def __init__(self, raw: list[Header]) -> None:
        self._raw = raw
        self._encoding = None

    @cached_property
    def _list(self) -> list[tuple[bytes, bytes, bytes]]:  # type: ignore[override]
        return [(name, name.lower(), value) for name, value in self._raw]

    @property
    def raw(self) -> list[Header]:
        return super().raw if "_list" in self.__dict__ else self._raw

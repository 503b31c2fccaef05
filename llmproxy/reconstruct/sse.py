"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), without I/O."""

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
_DATA = b"data:"


class ServerSentEvent(NamedTuple):
    """One event: its `event:` field ("" where there was none) and its `data:` lines, joined by newlines.

    A line with a field that the standard does not know is an event of its own, named as the field: llama-box ends a
    stream that failed with such a line, ``error: {…}``.
    """

    name: str
    data: str


class EventStream:
    """Bytes in, events out. Any split of the bytes gives the same events."""

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the pieces of the line that has not ended
        self._is_first_line = True
        self._ended_with_cr = False
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that `data` completes."""
        if self._ended_with_cr and data:
            self._ended_with_cr = False
            data = data.removeprefix(b"\n")
        self._ended_with_cr = self._ended_with_cr or data.endswith(b"\r")
        lines = data.splitlines()  # of bytes: by CR LF, CR and LF alone, which are the standard's
        rest = lines.pop() if lines and not data.endswith((b"\n", b"\r")) else b""
        if self._line and lines:
            lines[0] = b"".join((*self._line, lines[0]))
            self._line.clear()
        if rest:
            self._line.append(rest)
        events: list[ServerSentEvent] = []
        for line in lines:
            self._take(line, events)
        return events

    def finish(self) -> list[ServerSentEvent]:
        """The event that the end of the body completes. A browser drops it, but some servers end so."""
        self._ended_with_cr = False
        return self.feed(b"\n\n" if self._line else b"\n")

    def _take(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(ServerSentEvent(self._name, "\n".join(self._data)))
            self._name = ""
            self._data = []
            return
        if line.startswith(_DATA):  # as below, for nearly all lines
            self._data.append(line[len(_DATA) :].decode("utf-8", "replace").removeprefix(" "))
            return
        text = line.decode("utf-8", "replace")
        if text.startswith("{"):  # JSON that was sent without a field, such as the error of a gateway
            events.append(ServerSentEvent("", text))
            return
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        match field.strip():
            case "data":
                self._data.append(value)
            case "event":
                self._name = value
            case "" | "id" | "retry":
                pass
            case unknown:
                events.append(ServerSentEvent(unknown, value))

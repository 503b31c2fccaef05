"""Content codings (RFC 9110, section 8.4) undone piece by piece, with a bound on what comes out."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import brotli  # type: ignore[import-untyped]
import zstandard

from llmproxy.reconstruct.turn import NotReconstructed

# Twice the default of `capture.max_body_bytes`, which bounds a body as it was sent: one that is made to inflate must
# not cost much more than one that was sent at its full length.
MAX_DECODED_BYTES = 64 * 1024 * 1024

_PIECE = 256 * 1024
# Decoders give back what they did not take, as a copy, and a body may make them do so at every twentieth byte.
_SLICE = 16 * 1024
# zstandard gives no bound for one call's output. A block of at most 128 KiB takes 4 bytes or more (RFC 8878, 3.1.1.2).
_ZSTD_INPUT = 1024


class ContentDecoder:
    """Decodes one body. `codings` is in the order in which they were applied, as `Content-Encoding` lists them.

    What cannot be decoded from the first byte on raises `NotReconstructed`. A body that goes wrong later, ends early
    or grows beyond `limit` gives what was decoded before; `trouble` then says why nothing more comes. A body without
    codings has no limit here.
    """

    def __init__(self, codings: Sequence[str], what: str, limit: int = MAX_DECODED_BYTES) -> None:
        self._stages = [_Stage(_coding(name, what), name, what, limit) for name in reversed(codings)]
        self._room = limit
        self._what = what
        self.trouble: str | None = None

    def feed(self, data: bytes) -> bytes:
        """The bytes that `data` completes."""
        if self.trouble is not None:
            return b""
        return b"".join(self._bounded(iter((data,)), last=False))

    def finish(self) -> bytes:
        """What is left when the body has ended, whole or not."""
        if self.trouble is not None:
            return b""
        return b"".join(self._bounded(iter(()), last=True))

    def _bounded(self, pieces: Iterator[bytes], *, last: bool) -> Iterator[bytes]:
        if not self._stages:
            yield from pieces
            return
        for stage in self._stages:
            pieces = stage.decoded(pieces, last=last)
        for piece in pieces:
            yield piece[: self._room]
            self._room -= len(piece)
            if self._room < 0:
                self.trouble = f"{self._what} is too large when decoded"
                return
        for stage in self._stages:
            self.trouble = self.trouble or stage.trouble


class _Coding(Protocol):
    def decode(self, data: bytes) -> Iterator[bytes]:
        """Pieces of bounded size."""
        ...

    def flush(self) -> bytes: ...


class _Stage:
    """One coding of the list. A stage in the middle is bounded too: the next one may shrink what this one inflates."""

    def __init__(self, coding: _Coding, name: str, what: str, limit: int) -> None:
        self._coding = coding
        self._name = name
        self._what = what
        self._room = limit
        self._decoded_some = False
        self.trouble: str | None = None

    def decoded(self, pieces: Iterator[bytes], *, last: bool) -> Iterator[bytes]:
        if self.trouble is not None:
            return
        try:
            for piece in (piece for data in _slices(pieces) for piece in self._coding.decode(data)):
                yield self._counted(piece)
                if self._room < 0:
                    self.trouble = f"{self._what} is too large when decoded"
                    return
            if last:
                yield self._counted(self._coding.flush())
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            if not self._decoded_some:
                raise NotReconstructed(f"{self._what} is not {self._name}", str(error)) from error
            self.trouble = f"{self._what} stops being {self._name}"

    def _counted(self, piece: bytes) -> bytes:
        self._decoded_some = self._decoded_some or bool(piece)
        self._room -= len(piece)
        return piece


def _slices(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for data in pieces:
        for start in range(0, len(data), _SLICE):
            yield data[start : start + _SLICE]


class _Identity:
    def decode(self, data: bytes) -> Iterator[bytes]:
        yield data

    def flush(self) -> bytes:
        return b""


class _Gzip:
    """Members one after the other (RFC 1952, section 2.2). What follows and is none is ignored, as by gzip(1)."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._between = b""  # what may begin a further member
        self._is_over = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data and not self._is_over:
            if self._member.eof:
                self._between = (self._between + data).lstrip(b"\0")
                self._is_over = not b"\x1f\x8b".startswith(self._between[:2])
                if self._is_over or len(self._between) < 2:
                    return
                data, self._between = self._between, b""
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            yield from _inflated(self._member, data)
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def flush(self) -> bytes:
        return self._member.flush()


def _inflated(inflater: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    """One piece. Where the bytes go wrong, zlib forgets what they gave until then: it is asked again, byte by byte."""
    before = inflater.copy()
    try:
        yield inflater.decompress(data, _PIECE)
    except zlib.error:
        for at in range(len(data)):
            yield before.decompress(data[at : at + 1])
        raise


class _Deflate:
    """Zlib (RFC 1950), as the RFC asks for, or raw deflate (RFC 1951), as some servers have always sent it."""

    def __init__(self) -> None:
        self._head = b""
        self._inflater: zlib._Decompress | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        while data:
            yield from _inflated(self._inflater, data)
            data = self._inflater.unconsumed_tail

    def flush(self) -> bytes:
        return self._inflater.flush() if self._inflater is not None else b""


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        while not self._decompressor.is_finished():
            piece = self._decompressor.process(data, output_buffer_limit=_PIECE)
            data = b""
            yield piece
            if self._decompressor.can_accept_more_data() and not piece:
                return

    def flush(self) -> bytes:
        return b""


class _Zstd:
    def __init__(self) -> None:
        self._frames = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)

    def decode(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_INPUT):
            yield self._frames.decompress(data[start : start + _ZSTD_INPUT])

    def flush(self) -> bytes:
        return b""


_CODINGS: dict[str, type[_Coding]] = {
    "identity": _Identity,
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}


def _coding(name: str, what: str) -> _Coding:
    if name not in _CODINGS:
        raise NotReconstructed(f"{what} has an unknown content coding", name)
    return _CODINGS[name]()


def codings_of(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """The content codings of a message, in the order in which they were applied."""
    lines = [value for name, value in headers if name.lower() == b"content-encoding"]
    return [token for line in lines for word in line.decode("latin-1").split(",") if (token := word.strip().lower())]

"""The recorded exchanges of real providers, where they lie beside the project, and an upstream that plays them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.raw_upstream import Connection, RawRequest

CORPUS = Path(__file__).parents[2] / "shared" / "corpus"

needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the recorded exchanges are not at {CORPUS}")


@dataclass(frozen=True)
class Record:
    """One recorded exchange."""

    id: str
    api: str
    path: str
    request_headers: dict[str, str]
    request_body: bytes
    status: int
    response_headers: dict[str, str]
    response_body: bytes
    stream: bool
    chunk_lengths: list[int]
    sequence: str
    index: int
    continues: str | None

    def pieces(self) -> list[bytes]:
        """The response's body, split as the network split it where that is known, else in uneven pieces."""
        lengths = list(self.chunk_lengths)
        if sum(lengths) != len(self.response_body):
            lengths = [1 + (at * 7919) % 1500 for at in range(len(self.response_body) // 300 + 1)]
        pieces, at = [], 0
        for length in lengths:
            pieces.append(self.response_body[at : at + length])
            at += length
        return [piece for piece in [*pieces, self.response_body[at:]] if piece]


def records() -> list[Record]:
    """All records, the turns of a sequence in order, the sequences interleaved."""
    found = [_record(json.loads(path.read_text(encoding="utf-8"))) for path in (CORPUS / "exchanges").glob("*.json")]
    return sorted(found, key=lambda record: (record.index, record.id))


def fixture_records() -> list[Record]:
    """The few records that lie in the project itself."""
    paths = sorted((Path(__file__).parent / "fixtures").glob("*.json"))
    return [_record(json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def references() -> dict[str, dict[str, Any]]:
    """The independent reading of each record, by its id."""
    lines = (CORPUS / "reference.jsonl").read_text(encoding="utf-8").splitlines()
    return {reference["id"]: reference for reference in map(json.loads, lines)}


def _record(data: dict[str, Any]) -> Record:
    request, response = data["request"], data["response"]
    path = re.sub(r"[\x00-\x20]", "", request["path"])
    return Record(
        id=data["id"],
        api=data["api"],
        path=path,
        request_headers=request["headers"] or {},
        request_body=(request["body"] or "{}").encode(),
        status=response["status"],
        response_headers=response["headers"] or {},
        response_body=(response["body"] or "").encode(),
        stream=response["stream"],
        chunk_lengths=data.get("wire_chunk_bytes") or [],
        sequence=data["sequence"]["id"] if data["sequence"] else data["id"],
        index=data["sequence"]["index"] if data["sequence"] else 0,
        continues=data["continues"]["of"] if data["continues"] else None,
    )


class Player:
    """Answers a request that names a record in `x-record` with that record's response."""

    def __init__(self, played: list[Record]) -> None:
        self._records = {record.id: record for record in played}

    def __call__(self, connection: Connection, request: RawRequest) -> None:
        record = self._records[dict(request.headers)[b"x-record"].decode()]
        head = b"HTTP/1.1 %d Recorded\r\n" % record.status
        for name, value in record.response_headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "content-encoding", "connection"):
                head += f"{name}: {value}\r\n".encode("utf-8", "replace")
        connection.send(head + b"transfer-encoding: chunked\r\n\r\n")
        for piece in record.pieces():
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")

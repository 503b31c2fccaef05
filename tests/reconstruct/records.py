"""Recorded exchanges of real providers: a few beside the tests, and all of them where the corpus lies."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from llmproxy.reconstruct import Reconstruction, Turn, api_of

FIXTURES = Path(__file__).parents[1] / "fixtures"
CORPUS = Path(__file__).parents[3] / "shared" / "corpus"

Record = dict[str, Any]


@cache
def fixtures() -> dict[str, Record]:
    return _records(FIXTURES)


@cache
def corpus() -> dict[str, Record]:
    """All records by id; none where the corpus is missing."""
    return _records(CORPUS / "exchanges")


@cache
def reference() -> dict[str, Record]:
    """The independent reading of the corpus, by id."""
    return {line["id"]: line for line in map(json.loads, (CORPUS / "reference.jsonl").read_text().splitlines())}


def _records(folder: Path) -> dict[str, Record]:
    records = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {record["id"]: record for record in records}


def body_of(record: Record) -> bytes:
    return (record["response"]["body"] or "").encode()


def begun(record: Record) -> Reconstruction:
    """The reconstruction of a record, its response's head read."""
    request, response = record["request"], record["response"]
    api = api_of(request["method"], request["path"])
    assert api is not None and api == record["api"]
    reconstruction = Reconstruction(
        api,
        request_headers=[(name.encode(), str(value).encode()) for name, value in (request["headers"] or {}).items()],
        request_body=(request["body"] or "{}").encode(),
    )
    headers = [(name.encode(), str(value).encode()) for name, value in response["headers"].items()]
    reconstruction.response(response["status"], headers)
    return reconstruction


def turn_of(record: Record, *, ends: list[int] | None = None, length: int | None = None) -> Turn:
    """The turn of a record, its body split at `ends`, or cut to `length` bytes."""
    reconstruction = begun(record)
    body = body_of(record)
    is_cut = length is not None and length < len(body)
    body = body[:length]
    start = 0
    for end in (*sorted(ends or ()), len(body)):
        reconstruction.feed(body[start:end], 1)
        start = end
    return reconstruction.finish(complete=not is_cut)

"""Bodies that begin like one before are written once, and read whole."""

import asyncio
import errno
import os
import random
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.capture.exchange import Exchange
from llmproxy.capture.segment_reader import SegmentReader
from llmproxy.capture.spool import SpoolWriter
from llmproxy.capture.spool_reader import SpoolReader
from llmproxy.capture.tee import RequestHead, Tee
from llmproxy.metrics import Metrics

HEAD = RequestHead("up", None, "POST", b"/v1/chat/completions", [])


def write(folder: Path, bodies: Sequence[Sequence[bytes]], **settings: object) -> None:
    """Record exchanges that have these request bodies, each in its pieces."""

    async def run() -> None:
        writer = SpoolWriter(folder, **settings)  # type: ignore[arg-type]
        tee = Tee(writer, Metrics(), max_body_bytes=1 << 22)
        for pieces in bodies:
            recording = tee.begin(HEAD)
            for piece in pieces:
                recording.request_body(piece)
            await recording.written()
            recording.end("complete")
        writer.close()

    asyncio.run(run())


def read(folder: Path) -> list[Exchange]:
    reader = SpoolReader(folder)
    try:
        return [recorded.load() for recorded in reader.exchanges()]
    finally:
        reader.close()


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.spool"))


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def conversation(turns: int, *, seed: int = 0, first: int = 40_000, each: int = 500) -> list[list[bytes]]:
    """What an agent sends: all that was said before, and some more."""
    return [[noise(seed, first) + noise(seed + 1, turn * each) + b"]}"] for turn in range(1, turns + 1)]


def test_a_conversation_takes_the_room_of_what_is_new(tmp_path: Path) -> None:
    bodies = conversation(60)
    write(tmp_path, bodies)
    assert [exchange.request_body for exchange in read(tmp_path)] == [body for [body] in bodies]
    assert size(tmp_path) < 40_000 + 60 * 500 + 60 * 2_500  # of 3.3 MB: each turn names the places of those before


def test_a_long_conversation_is_written_whole_from_time_to_time(tmp_path: Path) -> None:
    """So that no body is put together from ever more places."""
    bodies = conversation(200, each=100)
    write(tmp_path, bodies)
    assert [exchange.request_body for exchange in read(tmp_path)] == [body for [body] in bodies]
    again = [
        line.count(b"\n") for line in re.findall(rb"@request_body_again .*\n((?:\d+ \d+ \d+\n)+)", spooled(tmp_path))
    ]
    assert len(again) > 190 and max(again) <= 65


def spooled(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.spool")))


def test_conversations_at_the_same_time_refer_each_to_its_own(tmp_path: Path) -> None:
    system = noise(9, 20_000)
    mixed = [
        [system + body]
        for pair in zip(*(conversation(20, seed=10 * n) for n in range(5)), strict=True)
        for [body] in pair
    ]
    write(tmp_path, mixed)
    assert [exchange.request_body for exchange in read(tmp_path)] == [body for [body] in mixed]
    assert size(tmp_path) < 500_000  # of 6.6 MB


@given(
    seeds=st.lists(st.integers(0, 2), min_size=2, max_size=8),
    lengths=st.lists(st.integers(0, 150_000), min_size=8, max_size=8),
    cuts=st.lists(st.lists(st.integers(0, 150_000), max_size=4), min_size=8, max_size=8),
    edits=st.lists(st.integers(0, 150_000), min_size=8, max_size=8),
    segment_bytes=st.sampled_from([1, 100_000, 1 << 24]),
)
@settings(max_examples=60)
def test_any_bodies_in_any_pieces(
    seeds: list[int], lengths: list[int], cuts: list[list[int]], edits: list[int], segment_bytes: int
) -> None:
    whole = [noise(seed, 150_000) for seed in range(3)]
    bodies: list[bytes] = []
    for seed, length, edit in zip(seeds, lengths, edits, strict=False):
        edited = bytearray(whole[seed][:length])
        if edit < length:
            edited[edit] ^= 1
        bodies.append(bytes(edited))
    pieces = []
    for body, at in zip(bodies, cuts, strict=False):
        bounds = [0, *sorted(cut for cut in at if cut < len(body)), len(body)]
        pieces.append([body[a:b] for a, b in pairwise(bounds)])
    with TemporaryDirectory() as folder:
        write(Path(folder), pieces, segment_bytes=segment_bytes)
        assert [exchange.request_body for exchange in read(Path(folder))] == bodies


def test_the_ingester_goes_on_behind_what_is_referred_to(tmp_path: Path) -> None:
    """What was acknowledged is not read again after a restart, but it is still there to be referred to."""
    [[first], [second]] = conversation(2)
    write(tmp_path, [[first], [second]])
    reader = SpoolReader(tmp_path)
    first_of_two, _ = reader.exchanges()
    first_of_two.acknowledge()
    reader.save()
    reader.close()
    assert [exchange.request_body for exchange in read(tmp_path)] == [second]


def test_what_refers_to_a_damaged_record_says_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path, conversation(3))
    [path] = tmp_path.glob("*.spool")
    damaged = bytearray(path.read_bytes())
    damaged[20_000] ^= 1
    path.write_bytes(damaged)
    exchanges = read(tmp_path)
    assert [exchange.error is not None and "are missing" in exchange.error for exchange in exchanges] == [True] * 3
    assert all(exchange.request_truncated for exchange in exchanges)


def test_a_body_lost_to_a_full_disk_is_not_referred_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [[first], [second]] = conversation(2)

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    async def run() -> None:
        writer = SpoolWriter(tmp_path)
        tee = Tee(writer, Metrics(), max_body_bytes=1 << 22)
        lost = tee.begin(HEAD)
        with monkeypatch.context() as disk:
            disk.setattr(os, "write", full)
            lost.request_body(first)
            await lost.written()
        for body in (second, first):
            kept = tee.begin(HEAD)
            kept.request_body(body)
            await kept.written()
            kept.end("complete")
        lost.end("complete")
        writer.close()

    asyncio.run(run())
    assert [exchange.request_body for exchange in read(tmp_path)] == [second, first]


@pytest.mark.parametrize("version", [b"1", b"2"])
def test_a_segment_of_an_earlier_format_is_read(tmp_path: Path, version: bytes) -> None:
    write(tmp_path, [[b"small"]])
    [path] = tmp_path.glob("*.spool")
    path.write_bytes(path.read_bytes().replace(b"llmproxy spool 3\n", b"llmproxy spool %b\n" % version, 1))
    reader = SegmentReader(path)
    assert reader.version() == version
    reader.close()
    assert [exchange.request_body for exchange in read(tmp_path)] == [b"small"]

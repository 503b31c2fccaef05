"""The spool's reader: damage, acknowledgement, order and memory."""

import asyncio
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmproxy.capture.exchange import Exchange
from llmproxy.capture.spool import MAGIC, SpoolWriter
from llmproxy.capture.spool_reader import SpoolReader, backlog
from llmproxy.capture.tee import Recording, RequestHead, Tee
from llmproxy.metrics import Metrics
from tests.test_spool import bodies, read, segment, several, write

NAME = "01k00000000000000000000000.spool"


def written(folder: Path, count: int) -> tuple[bytes, list[Exchange]]:
    """The bytes of a segment of `count` exchanges that overlap, and what they are when nothing is amiss."""

    def test(tee: Tee, writer: SpoolWriter) -> None:
        heads = [RequestHead("up", None, "POST", b"/%d" % number, [(b"x", b"y" * 30)]) for number in range(count)]
        recordings = [tee.begin(head) for head in heads]
        for recording in recordings:
            recording.request_body(b"\n@request \n" + os.urandom(20))
            recording.response(200, [])
            recording.response_body(b"z" * 40)
        for recording in recordings:
            recording.end("complete")

    write(folder, test).close()
    return segment(folder).read_bytes(), read(folder)


def records(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Where each record lies, and the id of its exchange."""
    at = len(MAGIC)
    while at < len(data):
        line = data[at : data.index(b"\n", at) + 1]
        end = at + len(line) + int(line.split(b" ")[3]) + 1
        yield at, end, line.split(b" ")[1].decode()
        at = end


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Exchange]]:
    return written(tmp_path_factory.mktemp("three"), 3)


@given(place=st.floats(0, 1, exclude_max=True), damage=st.binary(min_size=1, max_size=30))
@settings(max_examples=200)
def test_damage_costs_only_the_exchanges_it_touches(
    tmp_path_factory: pytest.TempPathFactory, three: tuple[bytes, list[Exchange]], place: float, damage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    whole, exchanges = three
    at = len(MAGIC) + int(place * (len(whole) - len(MAGIC)))
    damage = damage[: len(whole) - at]
    torn = whole[:at] + damage + whole[at + len(damage) :]
    assume(torn != whole)
    hit = [(start, end, id) for start, end, id in records(whole) if torn[start:end] != whole[start:end]]
    (folder / "torn").mkdir()
    (folder / "torn" / NAME).write_bytes(torn)

    reader = SpoolReader(folder / "torn")
    found = {recorded.id: recorded for recorded in reader.exchanges()}
    for each in exchanges:
        assert each.id in found, "what is left of an exchange is given out, so that it can be kept aside"
        if each.id not in {id for _, _, id in hit}:
            assert found[each.id].load() == each
        else:
            try:
                assert found[each.id].load() != each
            except ValueError as exc:
                assert "damaged part" in str(exc)
    reader.close()
    (kept,) = (folder / "torn" / "damaged").iterdir()
    assert kept.read_bytes() == torn[hit[0][0] : hit[-1][1]], "what is kept aside is the damaged records, no more"


@pytest.mark.parametrize("before", [b"", b"rubbish\n"])
def test_a_damaged_length_takes_no_memory(tmp_path: Path, before: bytes) -> None:
    data, _ = written(tmp_path / "whole", 1)
    line = b"@request 01k00000000000000000000000 0 999999999999 00000000\n"
    (tmp_path / NAME).write_bytes(MAGIC + before + line + data[len(MAGIC) :])
    tracemalloc.start()
    try:
        assert len(read(tmp_path)) == 1
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_damage_at_every_place_of_a_large_segment_is_passed_over(tmp_path: Path) -> None:
    """Wherever the next record lies to the blocks in which it is looked for."""
    data, (exchange,) = written(tmp_path / "whole", 1)
    for size in range(256 * 1024 - 140, 256 * 1024 + 10, 3):
        (tmp_path / NAME).write_bytes(MAGIC + b"x" * size + data[len(MAGIC) :])
        assert read(tmp_path) == [exchange], size


def test_a_copy_of_a_segment_stops_nothing(tmp_path: Path) -> None:
    data, exchanges = written(tmp_path, 3)
    (tmp_path / NAME).write_bytes(data)
    assert sorted(each.id for each in read(tmp_path)) == sorted([each.id for each in exchanges] * 2)


def test_reading_goes_on_where_it_was_acknowledged(tmp_path: Path) -> None:
    _, exchanges = written(tmp_path, 4)
    reader = SpoolReader(tmp_path)
    found = list(reader.exchanges())
    for recorded in (found[0], found[1], found[3]):
        recorded.acknowledge()
    reader.save()
    assert segment(tmp_path).with_suffix(".ack").stat().st_mode & 0o777 == 0o600
    assert list(reader.exchanges()) == [], "each is given out once"
    reader.put_back(found[2:3])
    assert [recorded.id for recorded in reader.exchanges()] == [exchanges[2].id]
    reader.close()
    # What is not acknowledged comes again, and what was read beside it too: its id tells that it is known.
    assert [each.id for each in read(tmp_path)] == [each.id for each in exchanges[2:]]


@pytest.mark.parametrize("ack", ["", "x", "-7", "0", "3", "999999999", "\0\0\0"])
def test_an_acknowledgement_that_makes_no_sense_is_not_believed(tmp_path: Path, ack: str) -> None:
    write(tmp_path, several(b"one", b"two")).close()
    segment(tmp_path).with_suffix(".ack").write_text(ack)
    assert bodies(read(tmp_path, acknowledge=True)) == [b"one", b"two"]


def test_a_file_that_is_given_its_name_meanwhile(tmp_path: Path) -> None:
    (tmp_path / ".gone.new").symlink_to(tmp_path / "nowhere")  # listed, and not there when it is looked at
    assert read(tmp_path) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=40))
@settings(max_examples=60)
def test_what_began_after_another_ended_never_comes_before_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, bool]]
) -> None:
    """Writers and the reader take turns at random: a parent comes before its child, whoever recorded them."""
    folder = tmp_path_factory.mktemp("spool")
    writers = [SpoolWriter(folder, segment_bytes=1500) for _ in range(3)]
    reader = SpoolReader(folder)
    given_out: list[str] = []
    ended: list[str] = []
    ended_before: dict[str, set[str]] = {}

    def take() -> None:
        for recorded in reader.exchanges():
            given_out.append(recorded.load().path)
            recorded.acknowledge()
        reader.save()

    async def run() -> None:
        tees = [Tee(writer, Metrics(), max_body_bytes=1000) for writer in writers]
        flying: list[tuple[str, Recording]] = []
        for number, (which, end_one, look) in enumerate(steps):
            if end_one and flying:
                path, recording = flying.pop(which % len(flying))
                recording.end("complete")
                ended.append(path)
            else:
                path = f"/{number}"
                ended_before[path] = set(ended)
                flying.append((path, tees[which].begin(RequestHead("up", None, "POST", path.encode(), []))))
                flying[-1][1].request_written()
            if look:
                take()

    asyncio.run(run())
    for writer in writers:
        writer.close()
    take()
    assert sorted(given_out) == sorted(ended_before)
    for position, path in enumerate(given_out):
        assert ended_before[path] <= set(given_out[:position])
    assert list(folder.glob("*.spool")) == []
    reader.close()


def test_memory_does_not_grow_with_what_waits(tmp_path: Path) -> None:
    body = b"x" * 4000
    write(tmp_path, several(*[body] * 5000), segment_bytes=1_000_000).close()
    assert backlog(tmp_path)["waiting_bytes"] > 20_000_000
    reader = SpoolReader(tmp_path)
    tracemalloc.start()
    try:
        count = 0
        for recorded in reader.exchanges():
            assert recorded.load().request_body == body
            recorded.acknowledge()
            count += 1
            if count % 100 == 0:
                reader.save()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    reader.save()
    reader.close()
    assert (count, list(tmp_path.iterdir())) == (5000, [])
    assert peak < 4_000_000

"""The spool: what is written is read, whatever happened to the file or to its writer."""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.capture.back_references import SMALLEST_BYTES
from llmproxy.capture.exchange import CROCKFORD, Exchange, ExchangeIds
from llmproxy.capture.segment_reader import SegmentReader
from llmproxy.capture.spool import MAGIC, SpoolError, SpoolWriter
from llmproxy.capture.spool_reader import SpoolReader, backlog
from llmproxy.capture.tee import RequestHead, Tee
from llmproxy.metrics import Metrics
from tests.proxy import eventually


def write(folder: Path, test: Callable[[Tee, SpoolWriter], None], **settings: object) -> SpoolWriter:
    """Run `test` with a tee and its writer, inside a loop; the writer is left open."""
    writer = SpoolWriter(folder, **settings)  # type: ignore[arg-type]

    async def run() -> None:
        test(Tee(writer, Metrics(), max_body_bytes=1 << 20), writer)

    asyncio.run(run())
    return writer


def exchange(tee: Tee, name: bytes = b"x", pieces: tuple[bytes, ...] = (b"hello",), *, ended: bool = True) -> None:
    recording = tee.begin(RequestHead("up", None, "POST", b"/v1/chat/completions", [(b"x-name", name)]))
    recording.request_body(name)
    recording.request_written()
    recording.response(200, [(b"content-type", b"text/plain")])
    for piece in pieces:
        recording.response_body(piece)
    if ended:
        recording.end("complete")


def short_exchange(tee: Tee, name: bytes) -> None:
    """As `exchange`, in the two records that a short one takes."""
    text = tee.text(RequestHead("up", None, "POST", b"/v1/chat/completions", [(b"x-name", name)]))
    recording = tee.begin_text("up", text, name)
    recording.request_written()
    recording.whole_response(200, [b"content-type: text/plain"], b"hello")
    recording.end("complete")


def several(*names: bytes) -> Callable[[Tee, SpoolWriter], None]:
    def test(tee: Tee, writer: SpoolWriter) -> None:
        for name in names:
            exchange(tee, name)

    return test


def read(folder: Path, *, acknowledge: bool = False) -> list[Exchange]:
    reader = SpoolReader(folder)
    try:
        found = list(reader.exchanges())
        loaded = [recorded.load() for recorded in found]
        if acknowledge:
            for recorded in found:
                recorded.acknowledge()
            reader.save()
        return loaded
    finally:
        reader.close()


def bodies(exchanges: list[Exchange]) -> list[bytes]:
    return [exchange.request_body for exchange in exchanges]


field_value = st.binary(max_size=30).map(lambda value: bytes(byte for byte in value if byte not in b"\r\n\0").strip())


@given(
    path=st.text(alphabet="abc/%?=&@ ", max_size=20).map(lambda text: ("/" + text.replace(" ", "")).encode()),
    value=field_value,
    request=st.binary(max_size=300),
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    whole=st.booleans(),
)
@settings(max_examples=100)
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    path: bytes,
    value: bytes,
    request: bytes,
    pieces: list[bytes],
    whole: bool,
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    if whole:
        pieces = pieces[:1]

    def test(tee: Tee, writer: SpoolWriter) -> None:
        head = RequestHead("up", "alice", "POST", path, [(b"x-odd", value), (b"x-odd", b"2")])
        if whole:
            recording = tee.begin_text("up", tee.text(head), request)
            recording.whole_response(299, [b"X-R: " + value], b"".join(pieces))
        else:
            recording = tee.begin(head)
            recording.request_body(request)
            recording.response(299, [(b"X-R", value)])
            for piece in pieces:
                recording.response_body(piece)
        recording.end("timeout", "a reason\nof two lines")

    write(folder, test).close()
    (got,) = read(folder)
    assert (got.method, got.path, got.client, got.status) == ("POST", path.decode(), "alice", 299)
    assert got.request_headers == ((b"x-odd", value), (b"x-odd", b"2"))
    assert got.response_headers == ((b"X-R", value),)
    assert got.request_body == request
    assert [piece for _, piece in got.response_body] == pieces
    assert (got.outcome, got.error) == ("timeout", "a reason of two lines")


small_or_large = st.tuples(st.integers(0, 2), st.sampled_from([1, 300, SMALLEST_BYTES, 3 * SMALLEST_BYTES]))
step = st.tuples(
    st.integers(0, 2), st.sampled_from(["request", "response", "requests written", "written"]), small_or_large
)


@given(st.lists(step, max_size=40))
@settings(max_examples=100)
def test_exchanges_that_pass_at_once_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, taken: list[tuple[int, str, tuple[int, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    sent: list[list[bytes]] = [[], [], []]
    got: list[list[bytes]] = [[], [], []]

    def test(tee: Tee, writer: SpoolWriter) -> None:
        recordings = [tee.begin(RequestHead("up", str(number), "POST", b"/x", [])) for number in range(3)]
        for recording in recordings:
            recording.response(200, [])  # an upstream may answer before it has the whole request
        segment = writer.begin()
        writer.release(segment)
        for number, what, (byte, size) in taken:
            piece = b"%d" % byte * size
            if what == "request":
                recordings[number].request_body(piece)
                sent[number].append(piece)
            elif what == "response":
                recordings[number].response_body(piece)
                got[number].append(piece)
            elif what == "requests written":
                assert writer.flush_requests(segment)
            else:
                assert writer.flush(segment)
        for recording in recordings:
            recording.end("complete")

    write(folder, test).close()
    exchanges = read(folder)
    assert [exchange.client for exchange in exchanges] == ["0", "1", "2"]
    assert bodies(exchanges) == [b"".join(pieces) for pieces in sent]
    assert [[piece for _, piece in exchange.response_body] for exchange in exchanges] == got


def segment(folder: Path) -> Path:
    (path,) = folder.glob("*.spool")
    return path


@pytest.mark.parametrize(("record", "first"), [(exchange, b"@request "), (short_exchange, b"@whole_request ")])
def test_a_tail_torn_at_any_byte_loses_only_what_was_torn(tmp_path: Path, record: Any, first: bytes) -> None:
    def test(tee: Tee, writer: SpoolWriter) -> None:
        record(tee, b"one")
        record(tee, b"two")

    write(tmp_path / "whole", test).close()
    whole = segment(tmp_path / "whole").read_bytes()
    begin_of_two = whole.index(first, len(MAGIC) + 1)
    for length in range(len(MAGIC), len(whole)):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "01k00000000000000000000000.spool").write_bytes(whole[:length])
        got = read(folder)
        assert bodies(got)[:1] in ([], [b"one"], [b""]), length
        if length >= begin_of_two:
            assert got[0].outcome == "complete" and got[0].request_body == b"one"
        assert all(each.outcome == "interrupted" for each in got[1:])


def test_a_short_exchange_is_two_records(tmp_path: Path) -> None:
    write(tmp_path, lambda tee, writer: short_exchange(tee, b"one")).close()
    assert segment(tmp_path).read_bytes().count(b"\n@") == 2
    (got,) = read(tmp_path)
    assert (got.request_bytes, got.response_bytes, got.error, got.status) == (3, 5, None, 200)
    assert got.first_byte_us is not None and got.duration_us == got.first_byte_us


@pytest.mark.parametrize("payload", [b"", b"started: 1", b"started: 1\n\nPOST /x HTTP/1.1", b"x\n\n\n\n", b"\n\n\n"])
def test_a_whole_record_that_makes_no_sense_stops_nothing(tmp_path: Path, payload: bytes) -> None:
    def test(tee: Tee, writer: SpoolWriter) -> None:
        segment = writer.begin()
        writer.append_request(segment, b"whole_request", b"0" * 26, 0, payload)
        writer.append_response(segment, b"whole_response", b"0" * 26, 0, payload)
        short_exchange(tee, b"one")

    write(tmp_path, test).close()
    reader = SpoolReader(tmp_path)
    nonsense, good = reader.exchanges()
    with pytest.raises((ValueError, KeyError, IndexError)):
        nonsense.load()
    assert good.load().request_body == b"one"
    reader.close()


def test_a_damaged_record_is_kept_aside_and_the_next_ones_are_read(tmp_path: Path) -> None:
    write(tmp_path, several(b"one", b"two", b"three")).close()
    path = segment(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"\ntwo\n") + 2
    data[at] ^= 0xFF
    path.write_bytes(data)
    got = read(tmp_path)
    assert [each.request_body for each in got] == [b"one", b"", b"three"]
    assert got[1].error is not None and "missing from the spool" in got[1].error
    (kept,) = (tmp_path / "damaged").iterdir()
    assert kept.read_bytes().startswith(b"@request_body ")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_segment_of_rubbish_stops_nothing(tmp_path: Path) -> None:
    write(tmp_path, lambda tee, _: exchange(tee, b"good")).close()
    (tmp_path / "01k00000000000000000000000.spool").write_bytes(os.urandom(50_000) + b"\n@\n@request x\n")
    (tmp_path / "not-a-ulid.spool").write_bytes(b"")
    assert bodies(read(tmp_path)) == [b"good"]


def test_a_record_being_written_is_waited_for(tmp_path: Path) -> None:
    writer = write(tmp_path, lambda tee, _: exchange(tee, b"one"))
    path = segment(tmp_path)
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(whole[len(MAGIC) : len(MAGIC) + 40])
    reader = SpoolReader(tmp_path)
    assert len(list(reader.exchanges())) == 1
    assert list(reader.exchanges()) == []
    assert not (tmp_path / "damaged").exists()
    reader.close()
    writer.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from typing import Any
from llmproxy.capture.spool import SpoolWriter
from llmproxy.capture.tee import RequestHead, Tee
from llmproxy.metrics import Metrics
async def main():
    tee = Tee(SpoolWriter(Path(sys.argv[1])), Metrics(), max_body_bytes=1000)
    done, flying = (tee.begin(RequestHead("up", None, "POST", b"/x", [])) for _ in range(2))
    for recording in (done, flying):
        recording.request_body(b"body")
        recording.request_written()
    done.end("complete")
    print("written", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_only_a_dead_writers_exchanges_are_interrupted(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "written\n"
        reader = SpoolReader(tmp_path)
        (recorded,) = reader.exchanges()
        recorded.acknowledge()
        reader.save()
        assert list(reader.exchanges()) == []
        child.send_signal(signal.SIGKILL)
        child.wait()
        (recorded,) = reader.exchanges()
        assert recorded.load().outcome == "interrupted"
        recorded.acknowledge()
        reader.save()
    assert list(tmp_path.iterdir()) == []
    reader.close()


def test_segments_are_rotated_and_removed(tmp_path: Path) -> None:
    names = [b"%d" % number for number in range(50)]
    writer = write(tmp_path, several(*names), segment_bytes=2000)
    assert len(list(tmp_path.glob("*.spool"))) > 5
    assert bodies(read(tmp_path, acknowledge=True)) == names
    assert len(list(tmp_path.glob("*.spool"))) == 1, "the one that is being written"
    writer.close()
    assert read(tmp_path, acknowledge=True) == []
    assert backlog(tmp_path) == {"segments": 0, "bytes": 0, "waiting_bytes": 0}


def test_an_exchange_lies_in_one_segment(tmp_path: Path) -> None:
    def test(tee: Tee, writer: SpoolWriter) -> None:
        slow = tee.begin(RequestHead("up", None, "POST", b"/slow", []))
        for number in range(20):
            exchange(tee, b"%d" % number)
            slow.response_body(b"piece")
        slow.end("complete")

    write(tmp_path, test, segment_bytes=1000).close()
    assert [each.path for each in read(tmp_path)] == ["/v1/chat/completions"] * 20 + ["/slow"]


def test_exchanges_of_several_writers_come_in_the_order_in_which_they_ended(tmp_path: Path) -> None:
    one, two = SpoolWriter(tmp_path), SpoolWriter(tmp_path)

    async def run() -> None:
        tees = [Tee(writer, Metrics(), max_body_bytes=1000) for writer in (one, two)]
        for number in range(20):
            exchange(tees[number % 2], b"%02d" % number)
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert bodies(read(tmp_path)) == [b"%02d" % number for number in range(20)]
    one.close()
    two.close()


def test_a_full_disk_is_counted_and_what_follows_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[tuple[int | None, int]] = []

    def test(tee: Tee, writer: SpoolWriter) -> None:
        exchange(tee, b"before")
        real = os.write

        def full(fd: int, data: bytes) -> int:
            real(fd, bytes(data)[:10])  # some of it still fits
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        recording = tee.begin(RequestHead("up", None, "POST", b"/lost", []))
        recording.request_written()
        assert tee.metrics.unrecorded == 1
        recording.end("complete")
        monkeypatch.setattr(os, "write", real)
        exchange(tee, b"after")

    write(tmp_path, test, on_error=lambda error, records: failures.append((error.errno, records))).close()
    assert failures == [(errno.ENOSPC, 1)]
    assert bodies(read(tmp_path)) == [b"before", b"after"]


def test_a_file_size_limit_is_survived(tmp_path: Path) -> None:
    """The real thing, in a process of its own: the kernel refuses to let the segment grow."""
    script = CHILD.replace("print(", "[exchange(n) for n in range(200)]; print(").replace(
        "    done, flying",
        "    def exchange(n):\n"
        "        recording = tee.begin(RequestHead('up', None, 'POST', b'/x', []))\n"
        "        recording.request_body(b'x' * 900); recording.request_written(); recording.end('complete')\n"
        "    done, flying",
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, preexec_fn=limit
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "written\n"
        child.kill()
        child.wait()
    got = read(tmp_path)
    assert 10 < len(got) < 30
    assert not (tmp_path / "damaged").exists(), "what did not fit was cut back to the last whole record"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def test(tee: Tee, writer: SpoolWriter) -> None:
        exchange(tee, b"forwarded, and only counted")
        assert tee.metrics.unrecorded == 1
        with pytest.raises(SpoolError):
            exchange(Tee(writer, Metrics(), max_body_bytes=1, required=True), b"refused")

    write(tmp_path / "file" / "spool", test).close()


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "spool"

    def test(tee: Tee, writer: SpoolWriter) -> None:
        exchange(tee, b"one")
        segment(folder).unlink()
        folder.rmdir()
        exchange(tee, b"two")

    write(folder, test).close()
    assert bodies(read(folder)) == [b"two"]


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    write(tmp_path / "above" / "spool", lambda tee, _: exchange(tee)).close()
    for folder in (tmp_path / "above", tmp_path / "above" / "spool"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert segment(tmp_path / "above" / "spool").stat().st_mode & 0o777 == 0o600


def test_fsync_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    writer = SpoolWriter(tmp_path, fsync=True)

    async def run() -> None:
        tee = Tee(writer, Metrics(), max_body_bytes=1000)
        recordings = [tee.begin(RequestHead("up", None, "POST", b"/x", [])) for _ in range(50)]
        for recording in recordings:
            recording.end("complete")
        await asyncio.gather(*(recording.durable() for recording in recordings))

    asyncio.run(run())
    assert 1 <= len(synced) <= 3
    writer.close()
    assert len(read(tmp_path)) == 50


def test_abandoned_files_are_swept_up(tmp_path: Path) -> None:
    for name, age in ((".old.new", 3600), (".young.new", 0)):
        path = tmp_path / name
        path.touch()
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    read(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".young.new"]


def test_ids_are_ulids_in_order() -> None:
    ids = ExchangeIds()
    made = [ids.new() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert all(len(id) == 26 and set(id) <= set(CROCKFORD) for id in made)
    assert eventually(lambda: ids.new()[:10] > made[0][:10], "the next millisecond")


def test_a_spool_of_another_version_is_left_for_that_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, several(b"ours")).close()
    theirs = tmp_path / "01k00000000000000000000000.spool"
    theirs.write_bytes(b"llmproxy spool 4\nwho knows\n")
    assert bodies(read(tmp_path, acknowledge=True)) == [b"ours"]
    assert theirs.read_bytes() == b"llmproxy spool 4\nwho knows\n" and not (tmp_path / "damaged").exists()
    assert "another version of llmproxy (spool format 4)" in caplog.text


def test_a_full_disk_keeps_a_damaged_piece_where_it_is_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the other segments are ingested all the same: that is what makes room."""
    write(tmp_path, several(b"torn")).close()
    damaged = segment(tmp_path)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    write(tmp_path, several(b"whole")).close()
    reader = SpoolReader(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(SegmentReader, "set_aside", lambda *place: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        for _ in range(2):
            found = [recorded for recorded in reader.exchanges()]
            assert [recorded.load().request_body for recorded in found] in ([b"whole"], [])
            for recorded in found:
                recorded.acknowledge()
            reader.save()
    assert caplog.text.count("cannot be kept aside yet") == 1
    assert damaged.exists()
    (torn,) = [recorded.load() for recorded in reader.exchanges()]
    assert (torn.request_body, torn.outcome) == (b"torn", "interrupted")
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    reader.close()

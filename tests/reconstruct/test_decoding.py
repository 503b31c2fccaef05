import gzip
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.reconstruct.decoding import ContentDecoder, codings_of
from llmproxy.reconstruct.turn import NotReconstructed

TEXT = "".join(f'data: {{"n": {number}, "é": "\U0001f600"}}\n\n' for number in range(200)).encode()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # else its length is one thing now and another in the next second


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def two_members(data: bytes) -> bytes:
    return gzipped(data[:100]) + gzipped(data[100:])


ENCODERS: dict[str, tuple[list[str], Callable[[bytes], bytes]]] = {
    "identity": (["identity"], bytes),
    "nothing": ([], bytes),
    "gzip": (["gzip"], gzipped),
    "x-gzip": (["x-gzip"], gzipped),
    "two members": (["gzip"], two_members),
    "padded": (["gzip"], lambda data: gzipped(data) + bytes(100)),
    "members with padding between": (
        ["gzip"],
        lambda data: gzipped(data[:9]) + bytes(3) + gzipped(data[9:]),
    ),
    "junk after the last member": (["gzip"], lambda data: gzipped(data) + b"junk"),
    "zlib": (["deflate"], zlib.compress),
    "raw deflate": (["deflate"], raw_deflate),
    "br": (["br"], brotli.compress),
    "zstd": (["zstd"], zstandard.compress),
    "zstd frames": (["zstd"], lambda data: zstandard.compress(data[:99]) + zstandard.compress(data[99:])),
    "a list": (["gzip", "br", "zstd"], lambda data: zstandard.compress(brotli.compress(gzipped(data)))),
}


def decode(codings: list[str], *pieces: bytes) -> bytes:
    decoder = ContentDecoder(codings, "body")
    decoded = b"".join([*map(decoder.feed, pieces), decoder.finish()])
    assert decoder.trouble is None
    return decoded


@pytest.mark.parametrize("name", ENCODERS)
def test_decoded_whole_and_byte_by_byte(name: str) -> None:
    codings, encode = ENCODERS[name]
    body = encode(TEXT)
    assert decode(codings, body) == TEXT
    assert decode(codings, *(body[at : at + 1] for at in range(len(body)))) == TEXT


@given(data=st.data())
@pytest.mark.parametrize("name", ENCODERS)
def test_any_split_and_any_cut(name: str, data: st.DataObject) -> None:
    codings, encode = ENCODERS[name]
    body = encode(TEXT)
    at = data.draw(st.integers(0, len(body)))
    assert decode(codings, body[:at], body[at:]) == TEXT
    assert TEXT.startswith(decode(codings, body[:at]))


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_what_was_flushed_is_decoded_at_once(coding: str) -> None:
    if coding == "gzip":
        zipper = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        piece = zipper.compress(b"data: a\n\n") + zipper.flush(zlib.Z_SYNC_FLUSH)
    else:
        compressor = brotli.Compressor()
        piece = compressor.process(b"data: a\n\n") + compressor.flush()
    assert ContentDecoder([coding], "body").feed(piece) == b"data: a\n\n"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_garbage_is_refused(coding: str) -> None:
    with pytest.raises(NotReconstructed) as caught:
        ContentDecoder([coding], "response body").feed(b"{'this': 'is plain'}" * 50)
    assert caught.value.reason == f"response body is not {coding}"


def test_garbage_that_begins_as_raw_deflate_may() -> None:
    decoder = ContentDecoder(["deflate"], "response body")
    assert len(decoder.feed(b"{'this': 'is plain'}" * 50)) < 50
    assert decoder.trouble == "response body stops being deflate"


def test_garbage_in_the_middle_keeps_what_came_before() -> None:
    zipper = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    body = zipper.compress(TEXT) + zipper.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 50
    decoder = ContentDecoder(["gzip"], "response body")
    decoded = decoder.feed(body[:-50]) + decoder.feed(body[-50:]) + decoder.feed(b"more") + decoder.finish()
    assert (decoded, decoder.trouble) == (TEXT, "response body stops being gzip")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity"])
def test_a_bomb_is_bounded(coding: str) -> None:
    encode = ENCODERS["zlib" if coding == "deflate" else coding][1]
    decoder = ContentDecoder([coding], "response body", limit=1_000_000)
    decoded = decoder.feed(encode(bytes(50_000_000))) + decoder.finish()
    assert (len(decoded), decoder.trouble) == (1_000_000, "response body is too large when decoded")


def test_a_body_without_codings_has_no_limit() -> None:
    decoder = ContentDecoder([], "response body", limit=10)
    assert (decoder.feed(bytes(20)) + decoder.finish(), decoder.trouble) == (bytes(20), None)


def test_a_small_body_is_not_decoded_without_end() -> None:
    decoder = ContentDecoder(["gzip"], "response body")
    size = len(decoder.feed(gzip.compress(bytes(65 * 1024 * 1024), 1)))
    assert (size, decoder.trouble) == (64 * 1024 * 1024, "response body is too large when decoded")


def test_a_bomb_inside_another_is_bounded() -> None:
    bomb = gzip.compress(gzip.compress(bytes(200_000_000)))
    decoder = ContentDecoder(["gzip", "gzip"], "response body", limit=100_000)
    assert len(decoder.feed(bomb)) <= 100_000
    assert decoder.trouble == "response body is too large when decoded"


def test_what_a_coding_in_the_middle_gives_is_bounded() -> None:
    bomb = gzip.compress(gzip.compress(b"a") + bytes(50_000_000))
    decoder = ContentDecoder(["gzip", "gzip"], "response body", limit=1_000_000)
    assert decoder.feed(bomb) + decoder.feed(b"more") + decoder.finish() == b"a"
    assert decoder.trouble == "response body is too large when decoded"


def test_an_unknown_coding_is_refused() -> None:
    with pytest.raises(NotReconstructed, match="response body has an unknown content coding: compress"):
        ContentDecoder(["compress"], "response body")


def test_codings_of_headers() -> None:
    headers = [(b"Content-Encoding", b"GZip, br"), (b"content-type", b"x"), (b"content-encoding", b"zstd,")]
    assert codings_of(headers) == ["gzip", "br", "zstd"]


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw deflate"])
def test_where_it_goes_wrong_does_not_depend_on_the_split(name: str) -> None:
    codings, encode = ENCODERS[name]
    body = encode(TEXT)
    wrong = body[: len(body) // 2] + b"\xff" * 20 + body[len(body) // 2 :]
    whole, split = ContentDecoder(codings, "body"), ContentDecoder(codings, "body")
    decoded = whole.feed(wrong) + whole.finish()
    assert decoded == b"".join(split.feed(wrong[at : at + 1]) for at in range(len(wrong))) + split.finish()
    assert whole.trouble == split.trouble == f"body stops being {codings[0]}"
    assert len(decoded) > len(TEXT) // 3

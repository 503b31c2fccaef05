import base64

import pytest
from llm import Attachment
from llm.parts import AttachmentPart

from llmproxy.reconstruct.attachments import Kind, audio_type, from_base64, from_file_id, from_url, joined_base64
from llmproxy.reconstruct.json_values import Notes

BYTES = b"\x89PNG\xff\xfe\xfd"
BASE64 = base64.b64encode(BYTES).decode()
URLSAFE = base64.urlsafe_b64encode(BYTES).decode().rstrip("=")


@pytest.mark.parametrize(
    ("url", "kind", "attachment"),
    [
        (f"data:image/png;base64,{BASE64}", "image", Attachment(type="image/png", content=BYTES)),
        (f"DATA:image/png;charset=x;BASE64,{BASE64}", "image", Attachment(type="image/png", content=BYTES)),
        (f"data:;base64,{BASE64}", "image", Attachment(type="image/*", content=BYTES)),
        (f"data:image/png;base64,{BASE64.replace('/', '%2F')}", "image", Attachment(type="image/png", content=BYTES)),
        (f"data:a/b;base64,{URLSAFE}", "image", Attachment(type="a/b", content=BYTES)),
        ("data:,a%20b", "file", Attachment(type="text/plain", content=b"a b")),
        ("https://x.test/a.JPG?b=c.png", "image", Attachment(type="image/jpeg", url="https://x.test/a.JPG?b=c.png")),
        ("https://x.test/a", "image", Attachment(type="image/*", url="https://x.test/a")),
        ("https://x.test/a.pdf", "file", Attachment(type="application/pdf", url="https://x.test/a.pdf")),
        ("https://x.test/", "file", Attachment(type="application/octet-stream", url="https://x.test/")),
        ("http://[x", "video", Attachment(type="video/*", url="http://[x")),
    ],
)
def test_url(url: str, kind: Kind, attachment: Attachment) -> None:
    notes = Notes()
    assert from_url(url, kind, notes) == AttachmentPart(attachment)
    assert not list(notes)


def test_data_that_is_no_base64_is_kept_as_text() -> None:
    notes = Notes()
    part = from_url("data:image/png;base64,<>", "image", notes, provider="anthropic", extra={"detail": "low"})
    assert part == AttachmentPart(None, {"anthropic": {"detail": "low", "url": "data:image/png;base64,<>"}})
    assert from_base64("<>", "a/b", "file", notes) == AttachmentPart(None, {"openai": {"data": "<>"}})
    assert list(notes) == ["image is not base64", "file is not base64"]


def test_a_filename_tells_the_type() -> None:
    part = from_base64(BASE64, None, "file", Notes(), extra={"filename": "a.pdf", "detail": None})
    attachment = Attachment(type="application/pdf", content=BYTES)
    assert part == AttachmentPart(attachment, {"openai": {"filename": "a.pdf"}})


def test_nothing_is_no_attachment() -> None:
    assert from_url("", "image", Notes()) == from_base64("", "a/b", "file", Notes()) == AttachmentPart(None)
    assert from_url("data:,", "file", Notes()) == AttachmentPart(None)


def test_a_file_of_the_provider() -> None:
    assert from_file_id("f", extra={"filename": "a"}) == AttachmentPart(
        None, {"openai": {"file_id": "f", "filename": "a"}}
    )


@pytest.mark.parametrize(
    ("audio_format", "media_type"),
    [("wav", "audio/wav"), ("mp3", "audio/mpeg"), ("pcm16", "audio/pcm16"), ("png", "audio/png"), ("", "audio/*")],
)
def test_audio_types(audio_format: str, media_type: str) -> None:
    assert audio_type(audio_format) == media_type


@pytest.mark.parametrize("pieces", [["YWI=", "Y2Q="], ["YW", "JjZA=="], ["YWJjZA=="]])
def test_base64_in_pieces(pieces: list[str]) -> None:
    assert base64.b64decode(joined_base64(pieces)) == b"abcd"


def test_pieces_that_are_no_base64_stay_text() -> None:
    assert joined_base64(["<", ">"]) == "<>"

"""The images, sounds and files of a request: whether a model of `llm` can be given them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from llm import Attachment
from llm.parts import AttachmentPart

from llmproxy.inprocess.openai_request import BadRequest
from llmproxy.reconstruct.chat_message import content_part
from llmproxy.reconstruct.json_values import Notes

_RESULTS = ("tool", "function")


def check_attachments(messages: Sequence[Mapping[str, Any]], types: Collection[str]) -> None:
    """Raises `BadRequest`, with the place of the first attachment that cannot be read or is of none of the media
    `types` that the model takes. Nothing is fetched."""
    for at, message in enumerate(messages):
        for place, block in _blocks(message):
            for part in content_part(block, Notes()):
                # What a tool gave back and is no attachment reaches the model as text.
                if isinstance(part, AttachmentPart) and (part.attachment or message.get("role") not in _RESULTS):
                    _check(part.attachment, f"messages[{at}].{place}", types)


def _blocks(message: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parts of a message and their places."""
    for field in ("content", "images"):
        blocks = message.get(field)
        for at, block in enumerate(blocks if isinstance(blocks, list) else ()):
            kind = block.get("type") if isinstance(block, dict) else None
            yield (f"{field}[{at}].{kind}" if isinstance(kind, str) and kind in block else f"{field}[{at}]"), block
    audio = message.get("audio")
    # What a model spoke in an earlier turn: its transcript stands for it.
    if isinstance(audio, dict) and (audio.get("data") or not audio.get("transcript")):
        yield "audio", {"type": "input_audio", "input_audio": audio}


def _check(attachment: Attachment | None, place: str, types: Collection[str]) -> None:
    if attachment is None:
        raise _refused(place, "models of llm read base64 data, and data:, http: and https: URLs; this is none of them.")
    if attachment.url is not None and not _is_web_address(attachment.url):
        raise _refused(place, "this is no data:, http: or https: URL.")
    if attachment.type in types:
        return
    if attachment.url is not None and str(attachment.type).endswith("/*"):
        raise _refused(place, "the URL's ending does not tell the type; send a data: URL, which names it.")
    raise _refused(place, f"this model takes no attachments of type {attachment.type}.")


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an unclosed bracket in the host
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _refused(place: str, why: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{place}': {why}", place, "invalid_value")

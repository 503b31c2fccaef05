"""Images, audio and files inside messages, as `llm` attachments: nothing fetched, no type left to be found out."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote_to_bytes, urlsplit

from llm import Attachment
from llm.parts import AttachmentPart

from llmproxy.reconstruct.json_values import Notes, namespaced

Kind = Literal["image", "audio", "video", "file"]
Provider = Literal["openai", "anthropic"]

# Not `mimetypes`, which reads the machine's own tables: the same bytes give the same turn everywhere.
_TYPES = {
    "avif": "image/avif",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "heic": "image/heic",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "png": "image/png",
    "svg": "image/svg+xml",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webp": "image/webp",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "mp3": "audio/mpeg",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "wav": "audio/wav",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "webm": "video/webm",
    "csv": "text/csv",
    "htm": "text/html",
    "html": "text/html",
    "json": "application/json",
    "md": "text/markdown",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "xml": "application/xml",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_ANY: Mapping[Kind, str] = {
    "image": "image/*",
    "audio": "audio/*",
    "video": "video/*",
    "file": "application/octet-stream",
}


def from_url(
    url: str, kind: Kind, notes: Notes, *, provider: Provider = "openai", extra: Mapping[str, Any] | None = None
) -> AttachmentPart:
    """What a URL stands for: the bytes of a data: URL, or the URL itself. `extra` goes into the provider's metadata."""
    if url[:5].lower() == "data:":
        return _from_data_url(url, kind, notes, provider, extra or {})
    if not url:
        return _bare(provider, extra or {})
    attachment = Attachment(type=_type_of_path(url, kind), url=url)
    return AttachmentPart(attachment, namespaced(provider, extra or {}))


def from_base64(
    data: str,
    media_type: str | None,
    kind: Kind,
    notes: Notes,
    *,
    provider: Provider = "openai",
    extra: Mapping[str, Any] | None = None,
) -> AttachmentPart:
    """Bytes sent as base64. Without `media_type` the type follows from a `filename` in `extra`, else from `kind`."""
    extra = extra or {}
    content = _decoded(data)
    if content is None:
        notes.add(f"{kind} is not base64")
        return _bare(provider, {**extra, "data": data})
    if not content:
        return _bare(provider, extra)
    filename = extra.get("filename")
    guessed = _type_of_path(filename, kind) if isinstance(filename, str) else _ANY[kind]
    return AttachmentPart(Attachment(type=media_type or guessed, content=content), namespaced(provider, extra))


def from_file_id(
    file_id: str, *, provider: Provider = "openai", extra: Mapping[str, Any] | None = None
) -> AttachmentPart:
    """A file that the provider holds."""
    return _bare(provider, {"file_id": file_id, **(extra or {})})


def audio_type(audio_format: str) -> str:
    """The media type of what the APIs call an audio `format`."""
    known = _TYPES.get(audio_format.lower(), "")
    return known if known.startswith("audio/") else f"audio/{audio_format or '*'}"


def _bare(provider: Provider, extra: Mapping[str, Any]) -> AttachmentPart:
    return AttachmentPart(attachment=None, provider_metadata=namespaced(provider, extra))


def _from_data_url(url: str, kind: Kind, notes: Notes, provider: Provider, extra: Mapping[str, Any]) -> AttachmentPart:
    # RFC 2397: data:[<mediatype>][;base64],<data>
    head, _, data = url[5:].partition(",")
    media_type, *parameters = head.split(";")
    if parameters and parameters[-1].strip().lower() == "base64":
        if "%" in data:
            data = unquote_to_bytes(data.encode("utf-8", "replace")).decode("latin-1")
        part = from_base64(data, media_type or None, kind, notes, provider=provider, extra=extra)
        if part.attachment is None and data:
            return _bare(provider, {**extra, "url": url})
        return part
    content = unquote_to_bytes(data.encode("utf-8", "replace"))
    if not content:
        return _bare(provider, extra)
    return AttachmentPart(Attachment(type=media_type or "text/plain", content=content), namespaced(provider, extra))


def _decoded(data: str) -> bytes | None:
    """The bytes of base64 in either alphabet, wrapped or unpadded; None where it is something else."""
    compact = "".join(data.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _type_of_path(url: str, kind: Kind) -> str:
    try:
        path = urlsplit(url).path
    except ValueError:  # such as an unclosed bracket in the host
        return _ANY[kind]
    return _TYPES.get(path.rpartition(".")[2].lower(), _ANY[kind])


def joined_base64(pieces: list[str]) -> str:
    """Base64 that came in pieces, each one padded by itself or all of them one text that was cut."""
    joined = "".join(pieces)
    if _decoded(joined) is not None:
        return joined
    decoded = [_decoded(piece) for piece in pieces]
    contents = [content for content in decoded if content is not None]
    return base64.b64encode(b"".join(contents)).decode() if len(contents) == len(decoded) else joined

"""Raw bodies as they may be kept: to the byte, but for credentials."""

import json
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_to_bytes

from llmproxy.headers import Header, get, is_secret_parameter
from llmproxy.reconstruct.credentials import Credential, credentials_in, is_group_of_secrets, is_secret
from llmproxy.reconstruct.decoding import ContentDecoder, codings_of
from llmproxy.reconstruct.json_values import parse
from llmproxy.reconstruct.turn import NotReconstructed

Span = tuple[int, int]
"""Where a credential begins and ends in the text."""

_TEXT = rb'"([^"\\]*(?:\\.[^"\\]*)*)'
_STRING = re.compile(_TEXT + rb'"(\s*:)?', re.DOTALL)
# In what is no JSON, whole or at all, a name is bounded, so that a stray quote costs little.
_FIELD = re.compile(rb'"([^"\\]{1,100})"\s*:\s*' + _TEXT, re.DOTALL)
_OBJECT = re.compile(rb'"([A-Za-z_-]{1,40})"\s*:\s*\{[^{}]*')
# Only from where a name begins: tried from each of its bytes, one of 30 MB would take for ever.
_PARAMETER = re.compile(rb"(?<![^&=])([^&=]+)=([^&]*)")
# RFC 7578: a part's head names the field; its value ends before the next delimiter.
_PART = re.compile(
    rb'\bname="?([A-Za-z0-9_.-]{1,100})"?[^\r\n]{0,999}\r\n(?:[^\r\n]{1,999}\r\n){0,9}\r\n(.*?)(?=\r\n--|\Z)', re.DOTALL
)


def masked(headers: Sequence[Header], body: bytes) -> bytes | None:
    """The body of a message with `headers`, each byte of a credential in it replaced by `*`.

    So it keeps its length, and that of the pieces in which it came. None where that cannot be: it is compressed and
    holds a credential, or spells one in a way that is not found again.
    """
    text = _decoded(headers, body)
    spans = list(_credentials(headers, text))
    if not spans:
        return body
    if text is not body:
        return None
    kept = bytearray(body)
    for start, end in spans:
        kept[start:end] = b"*" * (end - start)
    return bytes(kept) if _is_clean(bytes(kept)) else None


def without_credentials_of(headers: Sequence[Header], text: bytes) -> bytes:
    """A decoded body with each credential in it, masked or not, replaced by one `*`: what it says besides."""
    pieces, at = [], 0
    for start, end in sorted(_credentials(headers, text)):
        if start >= at:
            pieces += [text[at:start], b"*"]
            at = end
    return b"".join([*pieces, text[at:]])


def _decoded(headers: Sequence[Header], body: bytes) -> bytes:
    codings = codings_of(headers)
    if not codings or not body:
        return body
    try:
        decoder = ContentDecoder(codings, "body")
        return decoder.feed(body) + decoder.finish()
    except NotReconstructed:
        return body


def _credentials(headers: Sequence[Header], text: bytes) -> Iterator[Span]:
    content_type = (get(headers, b"content-type") or b"").lower()
    if b"x-www-form-urlencoded" in content_type:
        for parameter in _PARAMETER.finditer(text):
            if _is_secret_parameter(unquote_to_bytes(parameter[1].replace(b"+", b" "))):
                yield parameter.span(2)
        return
    if b"multipart/" in content_type:
        yield from (part.span(2) for part in _PART.finditer(text) if _is_secret_parameter(part[1]))
    for start, end in _documents(text):
        document = text[start:end]
        try:
            found = credentials_in(parse(document, "body"))
        except NotReconstructed:
            spans = _fields_named_so(document)
        else:
            spans = _fields(document, found) if found else iter(())
        yield from ((start + first, start + last) for first, last in spans)


def _is_secret_parameter(name: bytes) -> bool:
    lower = name.lower()
    return is_secret_parameter(lower) or lower.endswith((b"assertion", b"code_verifier"))


def _documents(text: bytes) -> Iterator[Span]:
    """The whole, or the data of each event of a stream."""
    if not text.lstrip().startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
        yield 0, len(text)
        return
    for line in re.finditer(rb"[^\r\n]+", text):
        start = line.start() + (5 if line[0].startswith(b"data:") else 0)
        if text[start : line.end()].strip() not in (b"", b"[DONE]"):
            yield start, line.end()


def _fields(document: bytes, found: set[Credential]) -> Iterator[Span]:
    """Where the credentials that were found in a JSON text stand in it, however they are escaped."""
    name: re.Match[bytes] | None = None
    for string in _STRING.finditer(document):
        if string[2]:
            name = string
            continue
        if name is not None and not document[name.end() : string.start()].strip():
            if (_unescaped(name[1]), _unescaped(string[1])) in found:
                yield string.span(1)
        name = None


def _fields_named_so(text: bytes) -> Iterator[Span]:
    """What has the name of a credential in a text that is no JSON, or only the beginning of one."""
    for field in _FIELD.finditer(text):
        if is_secret(field[1].decode("latin-1")):
            yield field.span(2)
    for group in _OBJECT.finditer(text):
        if is_group_of_secrets(group[1].decode()):
            inside = group.start() + group[0].index(b"{")
            yield from (field.span(2) for field in _FIELD.finditer(text, inside, group.end()))


def _unescaped(text: bytes) -> str:
    return str(json.loads(b'"%b"' % text, strict=False)) if b"\\" in text else text.decode("utf-8", "replace")


def _is_clean(text: bytes) -> bool:
    for start, end in _documents(text):
        try:
            found = credentials_in(parse(text[start:end], "body"))
        except NotReconstructed:
            continue
        if any(value.strip("*") for _, value in found):
            return False
    return True

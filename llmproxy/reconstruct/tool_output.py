"""What a tool gave back: text, media, and whatever else clients send."""

import json
from collections.abc import Callable
from typing import Any

from llm import Attachment
from llm.parts import AttachmentPart, Part, TextPart

ReadPart = Callable[[dict[str, Any]], list[Part]]


def read_output(content: Any, read_part: ReadPart) -> tuple[str, list[Attachment]]:
    """The text and the attachments of a tool result's content: a string, a list of parts, or any JSON.

    `read_part` is the API's own reading of one part. What is neither text nor an attachment goes into the text as JSON.
    """
    if content is None or isinstance(content, str):
        return content or "", []
    if not isinstance(content, list) or not all(isinstance(part, dict) and "type" in part for part in content):
        return (result_json(content) if content else ""), []
    texts: list[str] = []
    attachments: list[Attachment] = []
    separator = ""
    for block in content:
        for part in read_part(block):
            if isinstance(part, TextPart) and not part.provider_metadata:
                texts.append(part.text)
            elif isinstance(part, AttachmentPart) and part.attachment is not None:
                attachments.append(part.attachment)
            else:
                texts.append(result_json(block))
                separator = "\n"
    return separator.join(texts), attachments


def result_json(value: Any) -> str:
    """JSON text of a structured result. Its keys are sorted, since clients that parse a result echo them in their own
    order (pydantic-ai, typed SDKs), and the echo is to be the same value."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)

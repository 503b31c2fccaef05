"""Turns as messages: for OpenAI's fine-tuning and evals, and as `llm` has them."""

import base64
from collections.abc import Sequence
from typing import Any

from llm import Tool
from llm.parts import AttachmentPart, Message, TextPart, ToolCallPart, ToolResultPart

from llmproxy.parts import arguments_json, text_of
from llmproxy.store.captured import CapturedTurn

JsonObject = dict[str, Any]


class NotExportable(ValueError):
    """The turn cannot be said in the format. The message is the reason, the same for the same cause."""


def fine_tuning(turn: CapturedTurn) -> JsonObject:
    """A line for supervised fine-tuning (https://platform.openai.com/docs/guides/supervised-fine-tuning): the
    conversation with its answer, and the tools. Reasoning is left out. Raises `NotExportable`."""
    messages = _messages([*turn.input, *turn.output])
    if messages[-1]["role"] != "assistant" or not (messages[-1].get("content") or messages[-1].get("tool_calls")):
        raise NotExportable("the answer is empty")
    return {"messages": messages, **({"tools": _tools(turn.tools)} if turn.tools else {})}


def evals(turn: CapturedTurn) -> JsonObject:
    """A sample for evals (https://github.com/openai/evals/blob/main/docs/build-eval.md): the conversation, and the
    captured answer as the ideal one. Raises `NotExportable`."""
    ideal = text_of(turn.output)
    if not ideal:
        raise NotExportable("the answer has no text")
    return {"input": _messages(turn.input), "ideal": ideal}


def llm_messages(turn: CapturedTurn) -> JsonObject:
    """The turn in `llm`'s own message dictionaries (`llm.Message.to_dict`)."""
    return {
        "id": turn.id,
        "thread_id": turn.thread_id,
        "datetime_utc": turn.started_utc,
        "upstream": turn.upstream,
        "model": turn.model,
        "resolved_model": turn.resolved_model,
        "options": dict(turn.options),
        "schema": turn.schema,
        "tools": [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
            for tool in turn.tools
        ],
        "input": [message.to_dict() for message in turn.input],
        "output": [message.to_dict() for message in turn.output],
        "input_tokens": turn.input_tokens,
        "output_tokens": turn.output_tokens,
        "token_details": dict(turn.token_details),
        "duration_ms": turn.duration_ms,
    }


def _messages(messages: Sequence[Message]) -> list[JsonObject]:
    written = [each for message in messages for each in _message(message)]
    if not written:
        raise NotExportable("the request has no messages")
    return written


def _message(message: Message) -> list[JsonObject]:
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    if any(part.server_executed for part in message.parts if isinstance(part, ToolCallPart | ToolResultPart)):
        raise NotExportable("a tool of the provider's own has run in it")
    if results:
        return [
            {"role": "tool", "tool_call_id": result.tool_call_id or "", "content": result.output} for result in results
        ]
    content: list[JsonObject] = []
    calls: list[JsonObject] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, ToolCallPart):
            calls.append(_call(part))
        elif isinstance(part, AttachmentPart):
            content.append(_image(part))
    if all(block["type"] == "text" for block in content):
        said: Any = "".join(block["text"] for block in content)
    else:
        said = content
    if message.role == "assistant" and not said:
        said = None
    return [{"role": message.role, "content": said, **({"tool_calls": calls} if calls else {})}]


def _call(part: ToolCallPart) -> JsonObject:
    return {
        "id": part.tool_call_id or "",
        "type": "function",
        "function": {"name": part.name, "arguments": arguments_json(part)},
    }


def _image(part: AttachmentPart) -> JsonObject:
    attachment = part.attachment
    if attachment is None or not (attachment.type or "").startswith("image/"):
        raise NotExportable("it has an attachment that is no image")
    if attachment.url:
        return {"type": "image_url", "image_url": {"url": attachment.url}}
    data = base64.b64encode(attachment.content or b"").decode()
    return {"type": "image_url", "image_url": {"url": f"data:{attachment.type};base64,{data}"}}


def _tools(tools: Sequence[Tool]) -> list[JsonObject]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "parameters": tool.input_schema or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
    ]

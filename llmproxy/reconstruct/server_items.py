"""Items of the Responses API for tools that the provider runs itself: each carries its call and its result together.

Names and shapes are those of `llm`'s own OpenAI plugin where it knows the item (web search, code interpreter).
"""

from collections.abc import Callable
from typing import Any

from llm import Attachment
from llm.parts import Part, ToolResultPart

from llmproxy.reconstruct import attachments
from llmproxy.reconstruct.arguments import call_part
from llmproxy.reconstruct.json_values import Notes, namespaced, nonempty, objects, string
from llmproxy.reconstruct.tool_output import result_json

# Statuses of an item that has no result yet: the stream was cut.
_RUNNING = frozenset({"in_progress", "searching", "interpreting", "generating", "calling", "queued"})

# An item's own id and status change or vanish when it is sent back: half of all function calls lose theirs.
UNSTABLE = ("type", "id", "status")


def server_parts(item: dict[str, Any], notes: Notes) -> list[Part]:
    """The parts of an item whose type is in `SERVER_ITEMS`."""
    return SERVER_ITEMS[item["type"]](item, notes)


def _call(item: dict[str, Any], name: str, arguments: Any, mapped: tuple[str, ...], notes: Notes) -> Part:
    rest = {key: value for key, value in item.items() if key not in (*UNSTABLE, *mapped)}
    metadata = namespaced("openai", {"type": item["type"], **rest})
    return call_part(name, arguments, _id(item, notes), notes, metadata=metadata, server_executed=True)


def _result(
    item: dict[str, Any],
    name: str,
    output: str,
    notes: Notes,
    media: list[Attachment] | None = None,
    metadata: dict[str, Any] | None = None,
) -> list[Part]:
    status = item.get("status")
    status = status if isinstance(status, str) else ""
    if status in _RUNNING:
        return []
    return [
        ToolResultPart(
            name=name,
            output=output or status or "completed",
            tool_call_id=_id(item, notes),
            server_executed=True,
            attachments=media or [],
            provider_metadata=metadata,
        )
    ]


def _id(item: dict[str, Any], notes: Notes) -> str | None:
    return nonempty(item.get("id"), "id", notes)


def _web_search(item: dict[str, Any], notes: Notes) -> list[Part]:
    results = item.get("results")
    call = _call(item, "web_search", item.get("action"), ("action", "results"), notes)
    return [call, *_result(item, "web_search", result_json(results) if results else "", notes)]


def _file_search(item: dict[str, Any], notes: Notes) -> list[Part]:
    results = item.get("results")
    call = _call(item, "file_search", {"queries": item.get("queries") or []}, ("queries", "results"), notes)
    return [call, *_result(item, "file_search", result_json(results) if results else "", notes)]


def _code_interpreter(item: dict[str, Any], notes: Notes) -> list[Part]:
    logs: list[str] = []
    images: list[Attachment] = []
    for output in objects(item.get("outputs"), "outputs", notes):
        if isinstance(output.get("logs"), str):
            logs.append(output["logs"])
        url = output.get("url")
        if isinstance(url, str):
            image = attachments.from_url(url, "image", notes).attachment
            if image is not None:
                images.append(image)
    code = {"code": string(item.get("code"), "code", notes)}
    call = _call(item, "code_interpreter", code, ("code", "outputs"), notes)
    return [call, *_result(item, "code_interpreter", "\n".join(logs), notes, images)]


def _image_generation(item: dict[str, Any], notes: Notes) -> list[Part]:
    prompt = item.get("revised_prompt") or item.get("prompt")
    call = _call(
        item, "image_generation", {"prompt": prompt} if prompt else {}, ("revised_prompt", "prompt", "result"), notes
    )
    parts = [call, *_result(item, "image_generation", "", notes)]
    data = string(item.get("result"), "result", notes)
    if data[:5].lower() == "data:":
        parts.append(attachments.from_url(data, "image", notes))
    elif data:
        image_format = string(item.get("output_format"), "output_format", notes) or "png"
        parts.append(attachments.from_base64(data, f"image/{image_format}", "image", notes))
    return parts


def _mcp_call(item: dict[str, Any], notes: Notes) -> list[Part]:
    name = string(item.get("name"), "name", notes)
    # The approval's id and the outcome change nothing about the call.
    call = _call(item, name, item.get("arguments"), ("name", "arguments", "output", "error"), notes)
    output = item.get("output")
    text = output if isinstance(output, str) else result_json(output) if output else ""
    return [call, *_result(item, name, text, notes, metadata=namespaced("openai", {"error": item.get("error")}))]


def _mcp_list_tools(item: dict[str, Any], notes: Notes) -> list[Part]:
    arguments = {"server_label": item.get("server_label")}
    call = _call(item, "mcp_list_tools", arguments, ("server_label", "tools", "error"), notes)
    metadata = namespaced("openai", {"error": item.get("error")})
    tools = item.get("tools")
    return [call, *_result(item, "mcp_list_tools", result_json(tools) if tools else "", notes, metadata=metadata)]


def _mcp_approval_request(item: dict[str, Any], notes: Notes) -> list[Part]:
    return [_call(item, string(item.get("name"), "name", notes), item.get("arguments"), ("name", "arguments"), notes)]


SERVER_ITEMS: dict[str, Callable[[dict[str, Any], Notes], list[Part]]] = {
    "web_search_call": _web_search,
    "file_search_call": _file_search,
    "code_interpreter_call": _code_interpreter,
    "image_generation_call": _image_generation,
    "mcp_call": _mcp_call,
    "mcp_list_tools": _mcp_list_tools,
    "mcp_approval_request": _mcp_approval_request,
}
"""The reading of each item, by its type."""

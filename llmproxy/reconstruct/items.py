"""The items of the Responses API, as messages: the same reading for what is sent and for what comes back."""

from collections.abc import Iterable
from typing import Any

from llm import Attachment
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolResultPart

from llmproxy.reconstruct.arguments import call_part, custom_call_part
from llmproxy.reconstruct.item_content import content_part, content_parts
from llmproxy.reconstruct.json_values import Notes, namespaced, nonempty, sequence, string, without_empty
from llmproxy.reconstruct.server_items import SERVER_ITEMS, UNSTABLE, server_parts
from llmproxy.reconstruct.tool_output import read_output, result_json

# Calls that the client is to run, besides functions: the item's type -> (the tool, the field with its arguments).
_CLIENT_CALLS = {
    "local_shell_call": ("local_shell", "action"),
    "shell_call": ("shell", "action"),
    "apply_patch_call": ("apply_patch", "operation"),
    "computer_call": ("computer", "action"),
    "tool_search_call": ("tool_search", "arguments"),
    "program": ("program", "code"),  # that calls the tools, and that the provider runs
}
_CALL_OUTPUTS = {
    "function_call_output": "",
    "custom_tool_call_output": "",
    "local_shell_call_output": "local_shell",
    "shell_call_output": "shell",
    "apply_patch_call_output": "apply_patch",
    "computer_call_output": "computer",
    "tool_search_output": "tool_search",
    "program_output": "program",
}
_OUTPUT_FIELDS = {"tool_search_output": "tools", "program_output": "result"}
# What only has to be sent back, or says how the rest of the conversation is to be made.
_OPAQUE = ("compaction", "item_reference", "additional_tools", "configuration_update", "compaction_trigger")
_ANSWERS = ("function_call", "custom_tool_call", *_CLIENT_CALLS)


def read_items(items: Iterable[Any], notes: Notes, *, default_role: str) -> tuple[Message, ...]:
    """Messages out of items in order. Items of the assistant's side that follow each other are one message, and so are
    tool results. `default_role` is whose a message is that does not say."""
    reader = _Reader(notes, default_role)
    for item in items:
        if isinstance(item, dict):
            reader.read(item)
        else:
            notes.add("item is not an object")
    return tuple(reader.messages)


def last_answer_id(items: Any) -> str | None:
    """The id of the last item that the model made, None where it has none or there is no such item."""
    for item in reversed(items if isinstance(items, list) else []):
        if isinstance(item, dict) and (item.get("role") == "assistant" or item.get("type") in _ANSWERS):
            identifier = item.get("id")
            return identifier if isinstance(identifier, str) and identifier else None
    return None


class _Reader:
    def __init__(self, notes: Notes, default_role: str) -> None:
        self.messages: list[Message] = []
        self._notes = notes
        self._default_role = default_role
        self._names: dict[str, str] = {}  # call id -> tool
        self._server_calls: set[str] = set()
        self._last_search = ""

    def read(self, item: dict[str, Any]) -> None:
        kind = item.get("type")
        if not isinstance(kind, str) or kind == "":
            kind = "message" if "role" in item or "content" in item else ""
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._assistant([_reasoning(item, self._notes)])
        elif kind in ("function_call", "custom_tool_call") or kind in _CLIENT_CALLS:
            self._assistant([self._call(kind, item)])
        elif kind in _CALL_OUTPUTS:
            self._call_output(kind, item)
        elif kind in SERVER_ITEMS:
            self._assistant(server_parts(item, self._notes))
        elif kind == "mcp_approval_response":
            self._tool([_approval(item, self._notes)])
        elif kind.endswith("_call"):
            self._assistant([self._foreign_call(kind, item)])
        elif kind.endswith("_call_output") and string(item.get("call_id"), "call_id", self._notes) in self._names:
            self._call_output(kind, item)
        else:
            self._opaque(kind, item)

    def _message(self, item: dict[str, Any]) -> None:
        role = string(item.get("role"), "role", self._notes) or self._default_role
        parts = content_parts(item.get("content"), self._notes)
        extra = without_empty({"name": item.get("name"), "phase": item.get("phase")})
        if role == "assistant":
            # On the parts, since one message may be made of several items.
            for part in parts:
                if extra and isinstance(part, TextPart):
                    metadata = part.provider_metadata or {}
                    part.provider_metadata = {"openai": {**metadata.get("openai", {}), **extra}}
            self._assistant(parts)
            return
        if role == "developer":
            role, extra = "system", {"role": "developer", **extra}
        self.messages.append(Message(role, parts, namespaced("openai", extra)))

    def _call(self, kind: str, item: dict[str, Any]) -> Part:
        call_id = string(item.get("call_id"), "call_id", self._notes) or string(item.get("id"), "id", self._notes)
        if kind in _CLIENT_CALLS:
            name, field = _CLIENT_CALLS[kind]
            # Who runs it: a tool search says so; a hosted shell names its container.
            server = kind == "program" or item.get("execution") == "server" or _is_hosted(item.get("environment"))
        else:
            name, server = string(item.get("name"), "name", self._notes), False
            field = "arguments" if kind == "function_call" else "input"
        if call_id:
            self._names[call_id] = name
            if server:
                self._server_calls.add(call_id)
        if kind == "tool_search_call":
            self._last_search = call_id
        rest = {key: value for key, value in item.items() if key not in (*UNSTABLE, "call_id", "name", field)}
        if kind == "custom_tool_call":
            text = string(item.get("input"), "input", self._notes)
            return custom_call_part(name, text, call_id, metadata=without_empty(rest))
        if kind in _CLIENT_CALLS:
            rest["type"] = kind
        arguments = item.get(field)
        if kind == "computer_call" and "actions" in item:  # newer models ask for several at once
            arguments = {"actions": rest.pop("actions")}
        elif kind == "program":
            arguments = {"code": arguments}
        metadata = namespaced("openai", rest)
        return call_part(name, arguments, call_id, self._notes, metadata=metadata, server_executed=server)

    def _foreign_call(self, kind: str, item: dict[str, Any]) -> Part:
        """A call of a kind that is not known, such as of a tool that Azure's agents have: whoever offers it runs it."""
        self._notes.add(f"unknown item: {kind}")
        call_id = string(item.get("call_id"), "call_id", self._notes) or string(item.get("id"), "id", self._notes)
        name = string(item.get("name"), "name", self._notes) or kind.removesuffix("_call")
        if call_id:
            self._names[call_id] = name
            self._server_calls.add(call_id)
        field = next((field for field in ("arguments", "action", "input") if field in item), "")
        rest = {key: value for key, value in item.items() if key not in ("id", "status", "call_id", "name", field)}
        metadata = namespaced("openai", rest)
        return call_part(name, item.get(field), call_id, self._notes, metadata=metadata, server_executed=True)

    def _call_output(self, kind: str, item: dict[str, Any]) -> None:
        call_id = string(item.get("call_id"), "call_id", self._notes)
        if kind == "local_shell_call_output" and not call_id:
            call_id = string(item.get("id"), "id", self._notes)
        field = _OUTPUT_FIELDS.get(kind, "output")
        if kind == "tool_search_output" and not call_id:
            call_id = self._last_search  # OpenAI gives the output of its own search no call id
        server = call_id in self._server_calls or item.get("execution") == "server"
        content = item.get(field)
        if isinstance(content, dict) and content.get("type") == "computer_screenshot":
            content = [content]
        if kind == "tool_search_output":
            text, media = result_json(content), list[Attachment]()
        else:
            text, media = read_output(content, lambda block: content_part(block, self._notes))
        rest = {key: value for key, value in item.items() if key not in (*UNSTABLE, "call_id", field)}
        if item.get("status") != "completed":
            rest["status"] = item.get("status")  # a patch that failed says so only here
        if kind != "function_call_output":
            rest["type"] = kind
        part = ToolResultPart(
            name=self._names.get(call_id) or _CALL_OUTPUTS.get(kind, ""),
            output=text,
            tool_call_id=call_id or None,
            server_executed=server,
            attachments=media,
            provider_metadata=namespaced("openai", rest),
        )
        if server:
            self._assistant([part])
        else:
            self._tool([part])

    def _opaque(self, kind: str, item: dict[str, Any]) -> None:
        """What has to be sent back as it was, and says nothing that could be shown (a compaction, a reference)."""
        if kind not in _OPAQUE:
            self._notes.add(f"unknown item: {kind}")
        part = AttachmentPart(None, namespaced("openai", {k: v for k, v in item.items() if k != "status"}))
        role = item.get("role")
        if isinstance(role, str) and role not in ("", "assistant"):
            self.messages.append(Message("system" if role == "developer" else role, [part]))
        elif kind.endswith("_output"):
            self._tool([part])
        else:
            self._assistant([part])

    def _assistant(self, parts: list[Part]) -> None:
        self._join("assistant", parts)

    def _tool(self, parts: list[Part]) -> None:
        self._join("tool", parts)

    def _join(self, role: str, parts: list[Part]) -> None:
        if not self.messages or self.messages[-1].role != role:
            self.messages.append(Message(role))
        self.messages[-1].parts.extend(parts)


def _reasoning(item: dict[str, Any], notes: Notes) -> ReasoningPart:
    """Open models give the reasoning itself as content, OpenAI at most a summary. The content is preferred."""
    content = sequence(item.get("content"), "reasoning content", notes)
    text = _texts(content) or _texts(sequence(item.get("summary"), "reasoning summary", notes))
    # What else there is has to be sent back too (OpenRouter: the signature of what another provider thought).
    rest = {key: value for key, value in item.items() if key not in ("type", "status", "content")}
    metadata = {**rest, "content": content if len(content) > 1 else None}
    return ReasoningPart(text, redacted=not text, provider_metadata=namespaced("openai", metadata))


def _texts(parts: list[Any]) -> str:
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def _is_hosted(environment: Any) -> bool:
    return isinstance(environment, dict) and str(environment.get("type")).startswith("container")


def _approval(item: dict[str, Any], notes: Notes) -> ToolResultPart:
    return ToolResultPart(
        name="mcp_approval",
        output="approved" if item.get("approve") is True else "denied",
        tool_call_id=nonempty(item.get("approval_request_id"), "approval_request_id", notes),
        # It answers the provider's own call: no client's tool gave it.
        server_executed=True,
        provider_metadata=namespaced("openai", {"type": "mcp_approval_response", "reason": item.get("reason")}),
    )

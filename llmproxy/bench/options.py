"""The parameters of a request, from one API's words into another's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmproxy.reconstruct.turn import Api

JsonObject = dict[str, Any]

# The Messages API wants a limit; this one every model takes.
REQUIRED_MAX_TOKENS = 4096
# They say nothing about the answer, so that nobody is told that they are left out.
_SAYS_NOTHING = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "stream_options", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "client_metadata", "include", "include_usage", "tools", "background", "betas"),
        *("truncation", "inference_geo", "session_id", "trace", "cache_control", "context_management"),
    }
)


@dataclass(slots=True)
class Parameters:
    """What the three APIs have in common, and the names of what was `left_out`.

    `tool_choice` is ``auto``, ``none``, ``required`` or, as a 1-tuple, a tool's name. `schema_name` and `strict` are of
    the JSON schema; `json_object`: any JSON object is asked for.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = field(default_factory=list)
    tool_choice: str | tuple[str] | None = None
    parallel: bool | None = None
    effort: str | None = None
    json_object: bool = False
    schema_name: str | None = None
    strict: bool | None = None
    left_out: list[str] = field(default_factory=list)


def translated(options: Mapping[str, Any], source: Api, target: Api, schema: Mapping[str, Any] | None) -> Any:
    """The options in the target's words, and the names of those that have none there."""
    read = _from_messages(options) if source == "messages" else _from_openai(options)
    if target == "messages":
        body = _to_messages(read, schema)
    elif target == "responses":
        body = _to_responses(read, schema)
    else:
        body = _to_chat(read, schema)
    return {key: value for key, value in body.items() if value is not None}, tuple(read.left_out)


def with_schema(options: Mapping[str, Any], api: Api, schema: Mapping[str, Any] | None) -> JsonObject:
    """The options of the same API, with the JSON schema back where it was taken from."""
    body = {key: value for key, value in options.items() if key != "tools"}
    if schema is None:
        return body
    if api == "chat.completions":
        given = dict(body.get("response_format") or {"type": "json_schema", "json_schema": {"name": "answer"}})
        if isinstance(given.get("json_schema"), dict) or given.get("type") == "json_schema":
            given["json_schema"] = {**(given.get("json_schema") or {}), "schema": schema}
        else:
            given["schema"] = schema  # llama.cpp, Together
        body["response_format"] = given
    elif api == "responses":
        text = dict(body.get("text") or {})
        text["format"] = {**(text.get("format") or {"type": "json_schema", "name": "answer"}), "schema": schema}
        body["text"] = text
    elif "output_format" in body:
        body["output_format"] = {**body["output_format"], "schema": schema}
    else:
        config = dict(body.get("output_config") or {})
        config["format"] = {**(config.get("format") or {"type": "json_schema"}), "schema": schema}
        body["output_config"] = config
    return body


def _from_openai(options: Mapping[str, Any]) -> Parameters:
    """Of Chat Completions or of Responses: where they differ, each has names of its own."""
    read = Parameters()
    for name, value in options.items():
        match name:
            case "max_tokens" | "max_completion_tokens" | "max_output_tokens":
                read.max_tokens = value
            case "temperature" | "top_p" | "top_k":
                setattr(read, name, value)
            case "stop":
                read.stop = [value] if isinstance(value, str) else list(value)
            case "parallel_tool_calls":
                read.parallel = value
            case "reasoning_effort":
                read.effort = value
            case "reasoning":
                read.effort = value.get("effort") if isinstance(value, dict) else None
            case "tool_choice" if isinstance(value, str):
                read.tool_choice = value
            case "tool_choice" if isinstance(value, dict) and (value.get("function", value).get("name")):
                read.tool_choice = (value.get("function", value)["name"],)
            case "response_format" | "text" if isinstance(value, dict):
                _read_format(value.get("format") or {} if name == "text" else value, read)
            case _ if name not in _SAYS_NOTHING:
                read.left_out.append(name)
    return read


def _read_format(given: Mapping[str, Any], read: Parameters) -> None:
    read.json_object = given.get("type") == "json_object"
    named = given.get("json_schema") if isinstance(given.get("json_schema"), dict) else given
    read.schema_name, read.strict = (named or {}).get("name"), (named or {}).get("strict")


def _from_messages(options: Mapping[str, Any]) -> Parameters:
    read = Parameters()
    for name, value in options.items():
        match name:
            case "max_tokens" | "temperature" | "top_p" | "top_k":
                setattr(read, name, value)
            case "stop_sequences":
                read.stop = list(value)
            case "output_config" if isinstance(value, dict):
                read.effort = value.get("effort")
            case "output_format":
                pass  # its schema is kept apart
            case "tool_choice" if isinstance(value, dict):
                kinds = {"auto": "auto", "any": "required", "none": "none"}
                kind = value.get("type")
                read.tool_choice = (value["name"],) if kind == "tool" else kinds.get(str(kind))
                if value.get("disable_parallel_tool_use"):
                    read.parallel = False
            case _ if name not in _SAYS_NOTHING:
                read.left_out.append(name)
    return read


def _to_chat(read: Parameters, schema: Mapping[str, Any] | None) -> JsonObject:
    choice = read.tool_choice
    response_format: JsonObject | None = {"type": "json_object"} if read.json_object else None
    if schema is not None:
        named = {"name": read.schema_name or "answer", "schema": schema}
        strict = {} if read.strict is None else {"strict": read.strict}
        response_format = {"type": "json_schema", "json_schema": {**named, **strict}}
    _leave_out(read, top_k=read.top_k)
    return {
        "max_tokens": read.max_tokens,
        "temperature": read.temperature,
        "top_p": read.top_p,
        "stop": read.stop or None,
        "tool_choice": {"type": "function", "function": {"name": choice[0]}} if isinstance(choice, tuple) else choice,
        "parallel_tool_calls": read.parallel,
        "reasoning_effort": read.effort,
        "response_format": response_format,
    }


def _to_responses(read: Parameters, schema: Mapping[str, Any] | None) -> JsonObject:
    choice = read.tool_choice
    text: JsonObject | None = {"format": {"type": "json_object"}} if read.json_object else None
    if schema is not None:
        strict = {} if read.strict is None else {"strict": read.strict}
        named = {"name": read.schema_name or "answer", "schema": schema}
        text = {"format": {"type": "json_schema", **named, **strict}}
    _leave_out(read, top_k=read.top_k, stop=read.stop or None)
    return {
        "max_output_tokens": read.max_tokens,
        "temperature": read.temperature,
        "top_p": read.top_p,
        "tool_choice": {"type": "function", "name": choice[0]} if isinstance(choice, tuple) else choice,
        "parallel_tool_calls": read.parallel,
        "reasoning": {"effort": read.effort} if read.effort else None,
        "text": text,
    }


def _to_messages(read: Parameters, schema: Mapping[str, Any] | None) -> JsonObject:
    choice: JsonObject | None = None
    if isinstance(read.tool_choice, tuple):
        choice = {"type": "tool", "name": read.tool_choice[0]}
    elif read.tool_choice is not None:
        choice = {"type": {"required": "any"}.get(read.tool_choice, read.tool_choice)}
    if read.parallel is False and (choice or {}).get("type") != "none":
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if read.json_object and schema is None:
        read.left_out.append("response_format")
    config: JsonObject = {"format": {"type": "json_schema", "schema": schema}} if schema is not None else {}
    if read.effort in ("low", "medium", "high"):
        config["effort"] = read.effort
    elif read.effort is not None:
        read.left_out.append("reasoning_effort")
    if read.temperature is not None and read.temperature > 1:
        read.left_out.append(f"temperature above 1 ({read.temperature:g}; sent 1)")
    return {
        "max_tokens": read.max_tokens or REQUIRED_MAX_TOKENS,
        "temperature": None if read.temperature is None else min(read.temperature, 1),
        "top_p": read.top_p,
        "top_k": read.top_k,
        "stop_sequences": read.stop or None,
        "tool_choice": choice,
        "output_config": config or None,
    }


def _leave_out(read: Parameters, **values: Any) -> None:
    read.left_out += [name for name, value in values.items() if value is not None]

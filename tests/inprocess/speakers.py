"""The same questions in three APIs, by the providers' own packages."""

import json
from dataclasses import dataclass
from typing import Any

import anthropic
import openai

SYSTEM = "Be brief."
ASK = "What is the weather in Paris? Use get_weather."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCRIPT: dict[str, Any] = {
    "answer": "Let me see.",
    "reasoning": "Weather is asked for.",
    "tool_calls": [{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}],
}


@dataclass(frozen=True)
class Said:
    """What a user of any of the packages is told."""

    text: str
    reasoning: str
    calls: tuple[tuple[str, Any], ...]
    tokens: tuple[int, int]
    model: str
    why: str
    call_ids: tuple[str, ...] = ()

    def without_ids(self) -> "Said":
        return Said(self.text, self.reasoning, self.calls, self.tokens, self.model, self.why)


WHYS = {
    "chat.completions": {"stop": "stop", "calls": "tool_calls", "length": "length"},
    "responses": {"stop": "completed", "calls": "completed", "length": "max_output_tokens"},
    "messages": {"stop": "end_turn", "calls": "tool_use", "length": "max_tokens"},
}


class Chat:
    api = "chat.completions"

    def __init__(self, url: str) -> None:
        self.client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60)

    def ask(self, text: str = "Hi", *, after: Said | None = None, stream: bool = False, **wanted: Any) -> Said:
        messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        if after is not None:
            (call_id,), ((name, arguments),) = after.call_ids, after.calls
            call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            messages.append({"role": "assistant", "content": after.text or None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": call_id, "content": "sunny"})
        request: dict[str, Any] = {"model": wanted.get("model", "mock"), "messages": messages}
        request["max_tokens"] = wanted.get("limit", 100)
        if wanted.get("tools"):
            request["tools"] = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
        if wanted.get("schema"):
            named = {"name": "answer", "schema": SCHEMA}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        body = {"mock": wanted["mock"]} if "mock" in wanted else {}
        if stream:
            options = {"include_usage": True}
            with self.client.chat.completions.stream(**request, stream_options=options, extra_body=body) as events:
                completion = events.get_final_completion()
        else:
            completion = self.client.chat.completions.create(**request, extra_body=body)
        (choice,) = completion.choices
        calls = choice.message.tool_calls or ()
        return Said(
            choice.message.content or "",
            getattr(choice.message, "reasoning_content", ""),
            tuple((call.function.name, json.loads(call.function.arguments)) for call in calls),
            (completion.usage.prompt_tokens, completion.usage.completion_tokens),
            completion.model,
            choice.finish_reason,
            tuple(call.id for call in calls),
        )


class Responses:
    api = "responses"

    def __init__(self, url: str) -> None:
        self.client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60)

    def ask(self, text: str = "Hi", *, after: Said | None = None, stream: bool = False, **wanted: Any) -> Said:
        items: list[Any] = [{"role": "user", "content": text}]
        if after is not None:
            (call_id,), ((name, arguments),) = after.call_ids, after.calls
            if after.text:
                items.append({"role": "assistant", "content": after.text})
            call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": json.dumps(arguments)}
            items += [call, {"type": "function_call_output", "call_id": call_id, "output": "sunny"}]
        request: dict[str, Any] = {"model": wanted.get("model", "mock"), "instructions": SYSTEM, "input": items}
        request["max_output_tokens"] = wanted.get("limit", 100)
        if wanted.get("tools"):
            request["tools"] = [{"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}]
        if wanted.get("schema"):
            request["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}}
        body = {"mock": wanted["mock"]} if "mock" in wanted else {}
        if stream:
            with self.client.responses.stream(**request, extra_body=body) as events:
                numbers = [event.sequence_number for event in events]
                assert numbers == list(range(len(numbers)))
                response = events.get_final_response()
        else:
            response = self.client.responses.create(**request, extra_body=body)
        calls = [item for item in response.output if item.type == "function_call"]
        summaries = [part.text for item in response.output if item.type == "reasoning" for part in item.summary]
        return Said(
            response.output_text,
            "".join(summaries),
            tuple((call.name, json.loads(call.arguments)) for call in calls),
            (response.usage.input_tokens, response.usage.output_tokens),
            response.model,
            response.incomplete_details.reason if response.incomplete_details else response.status,
            tuple(call.call_id for call in calls),
        )


class Messages:
    api = "messages"

    def __init__(self, url: str) -> None:
        self.client: Any = anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=60)

    def ask(self, text: str = "Hi", *, after: Said | None = None, stream: bool = False, **wanted: Any) -> Said:
        messages: list[Any] = [{"role": "user", "content": text}]
        if after is not None:
            (call_id,), ((name, arguments),) = after.call_ids, after.calls
            said = [{"type": "text", "text": after.text}] if after.text else []
            call = {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
            messages.append({"role": "assistant", "content": [*said, call]})
            result = {"type": "tool_result", "tool_use_id": call_id, "content": "sunny"}
            messages.append({"role": "user", "content": [result]})
        request: dict[str, Any] = {"model": wanted.get("model", "mock"), "system": SYSTEM, "messages": messages}
        request["max_tokens"] = wanted.get("limit", 100)
        if wanted.get("tools"):
            request["tools"] = [{"name": "get_weather", "input_schema": SCHEMA}]
        body: dict[str, Any] = {"mock": wanted["mock"]} if "mock" in wanted else {}
        if wanted.get("schema"):
            body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        if stream:
            with self.client.messages.stream(**request, extra_body=body) as events:
                message = events.get_final_message()
        else:
            message = self.client.messages.create(**request, extra_body=body)
        calls = [block for block in message.content if block.type == "tool_use"]
        return Said(
            "".join(block.text for block in message.content if block.type == "text"),
            "".join(block.thinking for block in message.content if block.type == "thinking"),
            tuple((call.name, call.input) for call in calls),
            (message.usage.input_tokens, message.usage.output_tokens),
            message.model,
            message.stop_reason,
            tuple(call.id for call in calls),
        )


APIS: list[type[Chat] | type[Responses] | type[Messages]] = [Chat, Responses, Messages]

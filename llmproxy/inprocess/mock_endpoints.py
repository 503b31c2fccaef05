"""The mock's endpoints: a request's bytes in, the response's bytes out, and no I/O between."""

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import replace

from llmproxy.inprocess import (
    mock_answer,
    mock_chat,
    mock_messages,
    mock_messages_request,
    mock_objects,
    mock_responses,
    openai_objects,
)
from llmproxy.inprocess.mock_answer import Reply, ToolCall
from llmproxy.inprocess.mock_dialect import Answer, Dialect
from llmproxy.inprocess.mock_response import Request, Response, error, event_stream, json_response, paced, scripted
from llmproxy.inprocess.mock_settings import MockModel, Options, Script, script_of
from llmproxy.inprocess.openai_objects import Head, JsonObject
from llmproxy.inprocess.openai_request import (
    BadRequest,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    decode,
    parse,
    texts_of,
)

_EMBEDDING_DIMENSIONS = 16
_DIALECTS: dict[str, Dialect] = {
    "/chat/completions": mock_chat,
    "/responses": mock_responses,
    "/messages": mock_messages,
}
_COUNT_TOKENS = "/messages/count_tokens"


def respond(options: Options, request: Request) -> Response:
    """The response to a request, whatever it holds."""
    path = "/" + request.path.strip("/")
    path = path.removeprefix("/v1") if path == "/v1" or path.startswith("/v1/") else path
    dialect = _dialect(request, path)
    try:
        return _route(options, request, path, dialect)
    except BadRequest as exc:
        return error(dialect, 400, str(exc), exc.param, exc.code)
    except RecursionError:
        return error(dialect, 400, "We could not parse the JSON body of your request: it is nested too deeply.")


def _dialect(request: Request, path: str) -> Dialect:
    """The API that the path belongs to; of what several have, such as the models, the one whose client asks."""
    if path in _DIALECTS:
        return _DIALECTS[path]
    return mock_messages if path == _COUNT_TOKENS or request.header(b"anthropic-version") else mock_chat


def _route(options: Options, request: Request, path: str, dialect: Dialect) -> Response:
    if path in ("", "/", "/health"):
        return _get(request, dialect) or json_response({"status": "ok"})
    if refusal := _key_refusal(options, request, dialect):
        return refusal
    if path in (*_DIALECTS, _COUNT_TOKENS, "/completions", "/embeddings"):
        if request.method != "POST":
            return _wrong_method(request, dialect, b"POST")
        body = decode(request.body)
        if path in _DIALECTS:
            return _answer(options, request, dialect, body)
        if path == _COUNT_TOKENS:
            return _count_tokens(options, request, body)
        return _embeddings(options, request, body) if path == "/embeddings" else _completion(options, request, body)
    if path == "/models" or path.startswith("/models/"):
        name = path.removeprefix("/models").removeprefix("/")
        return _get(request, dialect) or _models(options, request, dialect, name)
    return error(dialect, 404, f"Invalid URL ({request.method} {request.path})")


def _answer(options: Options, request: Request, dialect: Dialect, body: JsonObject) -> Response:
    chat = dialect.read(body)
    script = script_of(request.headers, body, mock_answer.last_user_text(chat.messages))
    model = options.model(chat.model)
    if told := scripted(dialect, options, request, script, model, stream=bool(chat.stream)):
        return told
    if model.error_rate > mock_answer.chance("error", model.name, str(request.number)):
        failed = error(
            dialect, 500, f"The mock's model {model.name} fails so often (error_rate: {model.error_rate:g})."
        )
        return paced(failed, options, script, model)
    head = _head(dialect.RESPONSE_ID, request, model)
    replies = tuple(_reply(dialect, chat, script, model, head, index) for index in range(chat.n or 1))
    usage = script.usage
    if usage is None:
        usage = dialect.usage_of(mock_answer.prompt_tokens(chat.messages), replies, model.price)
    answer = Answer(head, body, chat, replies, usage)
    if chat.stream:
        response = event_stream(dialect, dialect.events(answer), script)
    else:
        response = json_response(dialect.whole(answer))
    return paced(response, options, script, model, usage)


def _count_tokens(options: Options, request: Request, body: JsonObject) -> Response:
    chat = mock_messages_request.read_count(body)
    script = script_of(request.headers, body, mock_answer.last_user_text(chat.messages))
    model = options.model(chat.model)
    if told := scripted(mock_messages, options, request, script, model):
        return told
    count = {"input_tokens": mock_answer.prompt_tokens(chat.messages)}
    return paced(json_response(count), options, script, model, count)


def _reply(dialect: Dialect, chat: ChatRequest, script: Script, model: MockModel, head: Head, index: int) -> Reply:
    """One choice; the second and later ones say which they are."""
    # An agent sends the same script with the tool's result: told to call again, it would never end.
    told = () if mock_answer.tool_results(chat.messages) else script.tool_calls
    calls = [_scripted_call(call.name, call.arguments, call.id) for call in told]
    if not script.answers:
        calls = mock_answer.tool_calls_for(chat)
    text = script.answer
    if text is None and calls:
        text = ""
    if text is None:
        text = mock_answer.structured_answer(chat)
    if text is None:
        right = mock_answer.is_right(model.quality, model.name, mock_answer.last_user_text(chat.messages))
        text = mock_answer.answer_for(chat.messages) if right else mock_answer.WRONG_ANSWER
        text += f" (choice {index + 1})" if index else ""
    pieces = _chunks(script, text)
    chunks, reason = mock_answer.cut_to(pieces, chat.stops, chat.limit)
    return Reply(
        chunks=chunks,
        finish_reason=script.finish_reason or ("tool_calls" if calls else reason),
        reasoning=script.reasoning or "",
        tool_calls=tuple(
            replace(call, id=call.id or f"{dialect.CALL_ID}{_digest(f'{head.id} {index} {position}')[:24]}")
            for position, call in enumerate(calls)
        ),
        stop_sequence=mock_answer.stop_in("".join(pieces), chat.stops),
    )


def _completion(options: Options, request: Request, body: JsonObject) -> Response:
    completion = parse(CompletionRequest, body)
    prompts = texts_of(completion.prompt)
    script = script_of(request.headers, body, prompts[0])
    model = options.model(completion.model)
    if told := scripted(mock_chat, options, request, script, model, stream=bool(completion.stream)):
        return told
    replies = []
    for prompt in prompts:
        text = mock_answer.answer_for([{"role": "user", "content": prompt}]) if script.answer is None else script.answer
        chunks, reason = mock_answer.cut_to(_chunks(script, text), completion.stops, completion.max_tokens)
        echoed = mock_answer.words(prompt) if completion.echo else ()
        replies += [Reply(echoed + chunks, script.finish_reason or reason)] * (completion.n or 1)
    head = _head("cmpl-", request, model)
    usage = _usage(script, model, sum(map(mock_answer.tokens, prompts)), replies)
    if completion.stream:
        wanted = usage if completion.usage_in_stream else None
        response = event_stream(mock_chat, mock_objects.text_completion_chunks(head, replies, wanted), script)
    else:
        response = json_response(mock_objects.text_completion(head, replies, usage))
    return paced(response, options, script, model, usage)


def _embeddings(options: Options, request: Request, body: JsonObject) -> Response:
    embedding = parse(EmbeddingRequest, body)
    script = script_of(request.headers, body)
    model = options.model(embedding.model)
    if told := scripted(mock_chat, options, request, script, model):
        return told
    texts = texts_of(embedding.input)
    dimensions = embedding.dimensions or _EMBEDDING_DIMENSIONS
    vectors = [mock_answer.embedding_of(text, dimensions) for text in texts]
    spent = sum(map(mock_answer.tokens, texts))
    usage = script.usage if script.usage is not None else {"prompt_tokens": spent, "total_tokens": spent}
    as_base64 = embedding.encoding_format == "base64"
    response = json_response(mock_objects.embedding_list(model.name, vectors, usage, as_base64=as_base64))
    return paced(response, options, script, model, usage)


def _models(options: Options, request: Request, dialect: Dialect, name: str) -> Response:
    script = script_of(request.headers, {})
    if told := scripted(dialect, options, request, script, options.models[0]):
        return told
    names = [model.name for model in options.models]
    objects = mock_messages if dialect is mock_messages else openai_objects
    if not name:
        return paced(json_response(objects.model_list(names)), options, script, options.models[0])
    if name not in names:
        return error(dialect, 404, f"The model '{name}' does not exist", "model", "model_not_found")
    return paced(json_response(objects.model_object(name)), options, script, options.models[0])


def _scripted_call(name: str, arguments: JsonObject | str, call_id: str | None) -> ToolCall:
    return ToolCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments), call_id)


def _chunks(script: Script, text: str) -> Sequence[str]:
    return mock_answer.words(text) if script.chunks is None else script.chunks


def _head(prefix: str, request: Request, model: MockModel) -> Head:
    digest = _digest(request.body)[:16]
    return Head(f"{prefix}{digest}{request.number:08d}", int(request.time), model.name)


def _usage(script: Script, model: MockModel, prompt_tokens: int, replies: Sequence[Reply]) -> JsonObject:
    return mock_objects.usage_of(prompt_tokens, replies, model.price) if script.usage is None else script.usage


def _digest(content: bytes | str) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def _get(request: Request, dialect: Dialect) -> Response | None:
    """A refusal where the method is not one that reads."""
    return None if request.method in ("GET", "HEAD") else _wrong_method(request, dialect, b"GET, HEAD")


def _wrong_method(request: Request, dialect: Dialect, allowed: bytes) -> Response:
    message = f"Not allowed to {request.method} on {request.path}; use {allowed.decode()}."
    refusal = error(dialect, 405, message, code="method_not_supported")
    return replace(refusal, headers=((b"allow", allowed),))


def _key_refusal(options: Options, request: Request, dialect: Dialect) -> Response | None:
    if options.require_key is False:
        return None
    kind, _, bearer = request.header(b"authorization").partition(b" ")
    key = bearer.strip() if kind.lower() == b"bearer" else request.header(b"x-api-key") or request.header(b"api-key")
    if not key:
        place = "x-api-key" if dialect is mock_messages else "Authorization: Bearer"
        return error(dialect, 401, f"You didn't provide an API key: send it in {place}.")
    if options.require_key is True or hmac.compare_digest(key, options.require_key.encode()):
        return None
    return error(dialect, 401, "Incorrect API key provided.")

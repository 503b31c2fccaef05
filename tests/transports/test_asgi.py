"""The streaming in-process transport: pieces as they are sent, and an app that learns when nobody reads any more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx2
import pytest

from llmproxy.transports.asgi import ASGIApp, ASGITransport, Receive, Send

Scope = MutableMapping[str, Any]


def run(app: ASGIApp, test: Callable[[ASGITransport], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(10), ASGITransport(app) as transport:
            await test(transport)

    asyncio.run(whole())


def request(body: Any = b"", target: bytes = b"/v1/x?a=1", read: float | None = 5.0) -> httpx2.Request:
    return httpx2.Request(
        "POST",
        "http://app/",
        headers=[(b"X-A", b"1"), (b"x-a", b"2")],
        stream=httpx2.ByteStream(body) if isinstance(body, bytes) else body,
        extensions={"target": target, "timeout": {"read": read}},
    )


async def start(send: Send, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def stream(response: httpx2.Response) -> AsyncIterator[bytes]:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    return aiter(response.stream)


def only_http(app: ASGIApp) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError("no lifespan here")
        await app(scope, receive, send)

    return wrapped


def test_each_piece_comes_before_the_next_is_made() -> None:
    made: list[int] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, (b"X-B", b"1"), (b"x-b", b"2"))
        for number in range(5):
            made.append(number)
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})

    async def test(transport: ASGITransport) -> None:
        response = await transport.handle_async_request(request())
        assert response.headers.raw == [(b"X-B", b"1"), (b"x-b", b"2")]
        pieces = stream(response)
        for number in range(5):
            assert await anext(pieces) == b"%d" % number
            assert len(made) <= number + 2, "the app goes no faster than its reader"
        assert await anext(pieces) == b"end"
        assert response.stream.ended  # type: ignore[union-attr]

    run(app, test)


def test_the_scope_and_a_body_that_streams() -> None:
    seen: list[Any] = []

    class Pieces(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append({key: scope[key] for key in ("method", "path", "raw_path", "query_string", "headers")})
        while (message := await receive()).get("more_body"):
            seen.append(message["body"])
        await start(send)
        await send({"type": "http.response.body"})

    async def test(transport: ASGITransport) -> None:
        response = await transport.handle_async_request(request(Pieces(), b"/v1/a%20b/%F0%9F%8D%8B?x=%20"))
        assert [piece async for piece in stream(response)] == []

    run(app, test)
    assert seen == [
        {
            "method": "POST",
            "path": "/v1/a b/🍋",
            "raw_path": b"/v1/a%20b/%F0%9F%8D%8B",
            "query_string": b"x=%20",
            "headers": [(b"x-a", b"1"), (b"x-a", b"2")],
        },
        b"one",
        b"two",
    ]


def test_an_app_learns_that_nobody_reads() -> None:
    told = asyncio.Event()
    raised: list[type[BaseException]] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await start(send)
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except OSError as exc:
            raised.append(type(exc))
            assert (await receive())["type"] == "http.disconnect"
            told.set()

    async def test(transport: ASGITransport) -> None:
        response = await transport.handle_async_request(request())
        assert await anext(stream(response)) == b"x"
        await response.aclose()
        await told.wait()

    run(app, test)
    assert len(raised) == 1


def test_cancelling_before_the_response_tells_the_app() -> None:
    arrived, told = asyncio.Event(), asyncio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    async def test(transport: ASGITransport) -> None:
        task = asyncio.get_running_loop().create_task(transport.handle_async_request(request()))
        await arrived.wait()
        task.cancel()
        await told.wait()

    run(app, test)


@pytest.mark.parametrize("fail", ["raise", "return", "line break", "no start"])
def test_failures_before_the_response(fail: str) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if fail == "raise":
            raise RuntimeError("a bug of the app's")
        if fail == "line break":
            await start(send, (b"x", b"1\r\ny: 2"))
        if fail == "no start":
            await send({"type": "http.response.body", "body": b"x"})

    async def test(transport: ASGITransport) -> None:
        with pytest.raises(httpx2.RemoteProtocolError, match="the app failed"):
            await transport.handle_async_request(request())

    run(app, test)


@pytest.mark.parametrize("fail", ["raise", "return"])
def test_failures_after_the_response_began(fail: str) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if fail == "raise":
            raise RuntimeError("a bug of the app's")

    async def test(transport: ASGITransport) -> None:
        pieces = stream(await transport.handle_async_request(request()))
        assert await anext(pieces) == b"x"
        with pytest.raises(httpx2.ReadError):
            await anext(pieces)

    run(app, test)


def test_silence_is_timed() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def test(transport: ASGITransport) -> None:
        with pytest.raises(httpx2.ReadTimeout):
            await transport.handle_async_request(request(read=0.05))

    run(app, test)


def test_the_lifespan_is_run() -> None:
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                events.append((await receive())["type"])
                await send({"type": f"lifespan.{phase}.complete"})
            return
        await start(send)
        await send({"type": "http.response.body", "body": b"x"})

    async def test(transport: ASGITransport) -> None:
        assert events == ["lifespan.startup"]
        await transport.handle_async_request(request())

    run(app, test)
    assert events == ["lifespan.startup", "lifespan.shutdown"]


def test_an_app_that_does_not_start() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no model"})

    async def test(transport: ASGITransport) -> None:
        raise AssertionError("it did not start")

    with pytest.raises(RuntimeError, match="no model"):
        run(app, test)

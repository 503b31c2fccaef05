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
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
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


class Upload(httpx2.AsyncByteStream):
    """A body whose pieces come when the test gives them."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.pieces.get():
            yield piece


def test_an_app_may_give_up_on_receive_and_call_it_again() -> None:
    """Starlette's `is_disconnected` does so for each piece that it sends; the upload goes on unharmed."""
    got: list[bytes] = []
    waiting = asyncio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def ask() -> None:
            got.append((await receive())["body"])

        for _ in range(3):
            task = asyncio.get_running_loop().create_task(ask())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        waiting.set()
        while (message := await receive())["more_body"]:
            got.append(message["body"])
        await start(send)
        await send({"type": "http.response.body"})

    async def test(transport: ASGITransport) -> None:
        upload = Upload()
        task = asyncio.get_running_loop().create_task(transport.handle_async_request(request(upload)))
        await waiting.wait()
        for piece in (b"one", b"two", b""):
            upload.pieces.put_nowait(piece)
        await task

    run(app, test)
    assert got == [b"one", b"two"]


def test_an_app_that_waits_for_the_body_learns_that_the_client_is_gone() -> None:
    received: list[str] = []
    arrived, told = asyncio.Event(), asyncio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.set()
        received.append((await receive())["type"])
        told.set()

    async def test(transport: ASGITransport) -> None:
        task = asyncio.get_running_loop().create_task(transport.handle_async_request(request(Upload())))
        await arrived.wait()
        task.cancel()
        await told.wait()

    run(app, test)
    assert received == ["http.disconnect"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"//v1//x%20y", "//v1//x y"),
        (b"/a%2Fb%3Fc?d", "/a/b?c"),
        (b"/%FF", "/\N{REPLACEMENT CHARACTER}"),
        (b"/100%", "/100%"),
        (b"/", "/"),
    ],
)
def test_odd_paths(target: bytes, path: str) -> None:
    seen: list[tuple[str, bytes]] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["path"], scope["raw_path"]))
        await start(send)
        await send({"type": "http.response.body"})

    async def test(transport: ASGITransport) -> None:
        await transport.handle_async_request(request(target=target))

    run(app, test)
    assert seen == [(path, target.partition(b"?")[0])]


def test_an_app_that_does_not_listen_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmproxy.transports.asgi.DISCONNECT_GRACE_SECONDS", 0)
    arrived, cancelled = asyncio.Event(), asyncio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def test(transport: ASGITransport) -> None:
        task = asyncio.get_running_loop().create_task(transport.handle_async_request(request()))
        await arrived.wait()
        task.cancel()
        await cancelled.wait()

    run(app, test)


def test_closing_the_transport_ends_what_is_in_flight() -> None:
    ended = asyncio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await start(send)
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def test(transport: ASGITransport) -> None:
        response = await transport.handle_async_request(request())
        await transport.aclose()
        assert ended.is_set()
        with pytest.raises(httpx2.ReadError, match="cancelled"):
            await anext(stream(response))

    run(app, test)


def test_a_failure_after_the_end_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"x"})
        raise RuntimeError("a background task's bug")

    async def test(transport: ASGITransport) -> None:
        assert [piece async for piece in stream(await transport.handle_async_request(request()))] == [b"x"]

    run(app, test)
    assert "a background task's bug" in caplog.text


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


def test_silence_inside_the_response_is_timed() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await receive()
        await receive()

    async def test(transport: ASGITransport) -> None:
        response = await transport.handle_async_request(request(read=0.05))
        pieces = stream(response)
        assert await anext(pieces) == b"x"
        with pytest.raises(httpx2.ReadTimeout):
            await anext(pieces)
        await response.aclose()

    run(app, test)


def test_without_a_timeout() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"x"})

    async def test(transport: ASGITransport) -> None:
        sent = request()
        sent.extensions = {"timeout": None}
        response = await transport.handle_async_request(sent)
        assert [piece async for piece in stream(response)] == [b"x"]

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


def test_what_the_lifespan_keeps_is_in_each_requests_state() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["client"] = "kept"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append(dict(scope["state"]))
        scope["state"]["own"] = "of this request"
        await start(send)
        await send({"type": "http.response.body"})

    async def test(transport: ASGITransport) -> None:
        for _ in range(2):
            await transport.handle_async_request(request())

    run(app, test)
    assert seen == [{"client": "kept"}] * 2


@pytest.mark.parametrize("fail", ["raise", "say so"])
def test_a_failure_at_the_lifespans_end_is_told_in_the_log(fail: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if fail == "raise":
            raise RuntimeError("a bug at the end")
        await send({"type": "lifespan.shutdown.failed", "message": "a bug at the end"})

    async def test(transport: ASGITransport) -> None:
        assert caplog.text == ""

    run(app, test)
    assert "a bug at the end" in caplog.text


def test_an_app_that_does_not_start() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no model"})

    async def test(transport: ASGITransport) -> None:
        raise AssertionError("it did not start")

    with pytest.raises(RuntimeError, match="no model"):
        run(app, test)


def test_an_app_that_says_it_did_not_start_and_goes_on_is_ended() -> None:
    ended: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})
        try:
            await receive()
        finally:
            ended.append(True)

    async def whole() -> None:
        with pytest.raises(RuntimeError, match="did not start"):
            async with ASGITransport(app):
                raise AssertionError("it did not start")
        assert ended == [True]

    asyncio.run(whole())


def test_an_app_that_returns_from_its_lifespan_has_none() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await start(send)
            await send({"type": "http.response.body", "body": b"x"})

    async def test(transport: ASGITransport) -> None:
        assert (await transport.handle_async_request(request())).status_code == 200

    run(app, test)

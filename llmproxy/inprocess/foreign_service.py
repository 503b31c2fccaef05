"""Asking a search-and-answer service: the request to it, and its events as they come."""

import logging
from collections.abc import AsyncGenerator
from urllib.parse import quote_plus

import httpx2

from llmproxy.inprocess.foreign_events import ForeignEvent, ForeignStream
from llmproxy.inprocess.foreign_settings import Options
from llmproxy.inprocess.openai_request import BadRequest

logger = logging.getLogger("llmproxy.foreign_sse")


class ServiceError(Exception):
    """The service gave no answer, or not all of it. The message says why."""


def service_request(client: httpx2.AsyncClient, options: Options, question: str) -> httpx2.Request:
    """The request for a question: the configured URL, its own query kept. Raises `BadRequest`."""
    joint = "" if options.url.endswith(("?", "&")) else "&" if "?" in options.url else "?"
    parameter = f"{quote_plus(options.query_parameter)}={quote_plus(question, errors='replace')}"
    # Compressed, the words would come in bursts.
    headers = {"accept": "text/event-stream", "accept-encoding": "identity"}
    try:
        return client.build_request("GET", f"{options.url}{joint}{parameter}", headers=headers)
    except httpx2.InvalidURL:
        raise BadRequest(
            "Invalid value for 'messages': the last user message is too long for a URL.", "messages", "string_too_long"
        ) from None


class Service:
    """One question to the service."""

    def __init__(self, client: httpx2.AsyncClient, request: httpx2.Request) -> None:
        self._client = client
        self._request = request
        self._stream = ForeignStream()

    @property
    def skipped(self) -> int:
        return self._stream.skipped

    def _failure(self, reason: str) -> ServiceError:
        return ServiceError(f"The search service ({self._request.url.netloc.decode()}) failed: {reason}")

    async def events(self) -> AsyncGenerator[list[ForeignEvent]]:
        """What the service sends, as it comes: never empty lists. Raises `ServiceError`.

        Ends the connection when it is closed. At its end it says in the log how many lines were skipped.
        """
        understood = False
        try:
            response = await self._client.send(self._request, stream=True)
            try:
                if response.status_code != 200:
                    raise self._failure(
                        f"it answered with status {response.status_code}{await _beginning_of(response)}"
                    )
                async for piece in response.aiter_bytes():
                    if events := self._stream.feed(piece):
                        understood = True
                        yield events
                if events := self._stream.finish():
                    understood = True
                    yield events
            finally:
                await response.aclose()
        except httpx2.ConnectTimeout as exc:
            raise self._failure(f"no connection in {self._client.timeout.connect:g} seconds") from exc
        except httpx2.TimeoutException as exc:
            raise self._failure(f"it said nothing for {self._client.timeout.read:g} seconds") from exc
        except httpx2.RequestError as exc:
            raise self._failure(str(exc) or type(exc).__name__) from exc
        finally:
            if self.skipped:
                logger.warning(
                    "%s: lines that were not understood and skipped: %d; the first is line %d",
                    self._request.url.copy_with(query=None),  # the question is private
                    self.skipped,
                    self._stream.first_skipped,
                )
        if self.skipped and not understood:
            raise self._failure(f"nothing that it sent could be understood ({self.skipped} lines)")


async def _beginning_of(response: httpx2.Response) -> str:
    """The first words of an error's body, to be put behind its status."""
    beginning = b""
    async for piece in response.aiter_bytes():
        beginning += piece
        if len(beginning) > 300:
            break
    text = " ".join(beginning.decode("utf-8", "replace").split())
    return f": {text[:300]}" if text else ""

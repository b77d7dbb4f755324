"""The relay of an agent's requests: it checks each, sends it on with the credential, and streams the answer back."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator

import anyio
import httpx
from starlette.types import Message, Receive, Scope, Send

from portico.gateway.api_errors import Raw, Refusal, passed
from portico.gateway.credential_health import CredentialHealth
from portico.gateway.door import AgentDoor
from portico.gateway.ledger import Ledger
from portico.gateway.meter import JsonMeter, StreamMeter
from portico.gateway.upstream import Upstream

MESSAGES = "/v1/messages"
PATHS = frozenset({MESSAGES, "/v1/messages/count_tokens"})
"""All the paths that CLI 2.1.330 requests with its other traffic off."""

QUERY = re.compile(r"[A-Za-z0-9_.=&-]{0,256}")  # the CLI sends `beta=true`

MAX_BODY = 33 * 1024 * 1024
"""Bytes; the API accepts 32 MB."""

BODY_SECONDS = 60.0
"""The time for the next piece of a request to arrive, and for the agent to take the next piece of its answer."""

REQUEST_SECONDS = 3600.0

RETRY = b"x-should-retry"

CUT_SECONDS = 5.0
"""The time for the agent to take the bytes that were sent before the answer was cut."""

NOT_THE_AGENTS = frozenset(
    {b"host", b"x-api-key", b"authorization", b"cookie", b"accept-encoding", b"forwarded", b"expect"}
)
"""Fields that the gateway sets itself, or drops."""

NOT_FOR_THE_AGENT = frozenset({b"set-cookie", b"content-encoding", b"alt-svc"})

log = logging.getLogger("portico.gateway")


class _Gone(Exception):
    """The agent has closed its connection."""


class Relay:
    """The gateway as an ASGI app. It never logs the content of a request or an answer."""

    def __init__(
        self, upstream: Upstream, pool: httpx.AsyncBaseTransport, ledger: Ledger, health: CredentialHealth
    ) -> None:
        self._health = health
        self._upstream = upstream
        self._pool = pool
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        door: AgentDoor = scope["state"]["door"]
        body = _Body(receive)
        answer = _Answer(send)
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await body.complete.wait()
                await _disconnected(receive)
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._answer(scope, door, body, answer)
            if answer.started and not answer.complete:
                await _cut(scope["state"]["transport"], receive)
            tasks.cancel_scope.cancel()

    async def _answer(self, scope: Scope, door: AgentDoor, body: _Body, answer: _Answer) -> None:
        problem: Refusal | None = None
        try:
            with anyio.fail_after(REQUEST_SECONDS):
                await self._relay(scope, door, body, answer)
        except _Gone:
            pass
        except Refusal as refusal:
            problem = refusal
        except TimeoutError:
            problem = Refusal(408, "timeout_error", "sending the request or taking its answer took too long")
        except httpx.PoolTimeout:
            problem = Refusal(529, "overloaded_error", "too many requests are under way to the model API")
        except httpx.TimeoutException as error:
            problem = Refusal(504, "timeout_error", f"the model API does not answer ({type(error).__name__})")
        except (httpx.LocalProtocolError, httpx.InvalidURL):
            problem = Refusal(
                400, "invalid_request_error", "the request can't be sent on: its header fields are not valid"
            )
        except httpx.HTTPError as error:
            problem = Refusal(502, "api_error", f"the model API can't be reached: {error or type(error).__name__}")
        if problem is None:
            return
        log.info("a request of %s: %d %s", door.owner, problem.status, problem.text)
        if not answer.started:
            await problem.answer(answer.send)

    async def _relay(self, scope: Scope, door: AgentDoor, body: _Body, answer: _Answer) -> None:
        path, query = scope["path"], scope["query_string"].decode("latin-1")
        if path not in PATHS or scope["raw_path"] != path.encode() or not QUERY.fullmatch(query):
            raise Refusal(404, "not_found_error", "the gateway passes on only requests for messages")
        if scope["method"] != "POST":
            raise Refusal(405, "invalid_request_error", "only POST is passed on")
        if path == MESSAGES:
            self._ledger.check(door.owner)
            door.account.check()
        body.expect(scope["headers"])
        request = self._upstream.request(path, query, passed(scope["headers"], NOT_THE_AGENTS), body)
        response = await self._pool.handle_async_request(request)
        self._health.answered(response.status_code)
        try:
            if 300 <= response.status_code < 400:
                raise Refusal(502, "api_error", "the model API redirects elsewhere: see anthropic_base_url")
            counted = path == MESSAGES and response.status_code == 200
            await self._stream(response, door if counted else None, answer)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await response.aclose()

    async def _stream(self, response: httpx.Response, door: AgentDoor | None, answer: _Answer) -> None:
        streams = response.headers.get("content-type", "").startswith("text/event-stream")
        prices = self._ledger.prices
        meter = StreamMeter(prices) if streams else JsonMeter(prices)
        owner = door.owner if door is not None else None
        headers = passed(response.headers.raw, NOT_FOR_THE_AGENT)
        if response.status_code == 401:  # the server's credential is not the agent's to change: it need not try again
            headers = [(name, value) for name, value in headers if name.lower() != RETRY] + [(RETRY, b"false")]
        if "content-encoding" in response.headers:
            headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        if door is not None:
            door.account.begin(meter)
        try:
            await answer.send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for chunk in response.aiter_bytes():
                if door is not None:
                    meter.feed(chunk)
                with anyio.fail_after(BODY_SECONDS):
                    await answer.send({"type": "http.response.body", "body": chunk, "more_body": True})
            await answer.send({"type": "http.response.body", "body": b""})
        finally:
            if door is not None:
                door.account.end(meter)
                if owner is not None:
                    self._ledger.add(owner, meter.total()[1])


class _Body:
    """The request's body as it arrives; `complete` is set after its end."""

    def __init__(self, receive: Receive) -> None:
        self.complete = anyio.Event()
        self._receive = receive
        self._size = 0

    def expect(self, headers: list[Raw]) -> None:
        """Raise `Refusal` if the request declares a length that is too large."""
        length = dict(headers).get(b"content-length", b"0")
        self._check(int(length) if length.isdigit() else 0)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            with anyio.fail_after(BODY_SECONDS):
                message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            more = message.get("more_body", False)
            self._size += len(message["body"])
            self._check(self._size)
            yield message["body"]
        self.complete.set()

    def _check(self, size: int) -> None:
        if size > MAX_BODY:
            raise Refusal(413, "request_too_large", f"the request is larger than {MAX_BODY} bytes")


class _Answer:
    """The answer to the agent: it notes whether sending has started and is complete."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.complete = False

    async def send(self, message: Message) -> None:
        self.started = True
        await self._send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)


async def _cut(transport: asyncio.Transport, receive: Receive) -> None:
    """End the connection after the bytes already sent, so that the agent sees that the answer is not complete."""
    transport.close()
    with anyio.move_on_after(CUT_SECONDS):
        await _disconnected(receive)
        return
    transport.abort()
    await _disconnected(receive)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""The server's HTTP API, as a client sees it: calls, and streams of events that outlive their connections."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import anyio
import httpx
from httpx_sse import EventSource

from portico.cli.client.connection import API_PREFIX, Endpoint, explain
from portico.cli.client.errors import ClientError, HistoryLost, ProblemError, Stranger, Unreachable
from portico.cli.client.proxy_answers import code_of, describe, name_of
from portico.cli.client.request import visible
from portico.ziti.overlay import DialFailed, OverlayDialler, transport

Event = dict[str, Any]
"""An event of the HTTP API, unchanged."""

HEARTBEAT = 4
"""Seconds between two signs of life on a stream, whatever the operator has set."""
SILENCE = 45.0
"""Seconds without a byte after which a stream counts as dead. A busy server may be late with a heartbeat."""
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each attempt to reconnect; the last value repeats."""
STEADY = 10.0
"""Seconds that a connection must last, unless it brings an event, to count as a success."""
CALL_SECONDS = 30.0
"""The time limit for an answer that is not a stream."""
PAGE = 1000
"""The number of events in a page."""
GATEWAY = (502, 503, 504)
"""A proxy's answers while the server behind it is away. The server's own 503 is a problem document."""


class Client:
    """A client of one server. An async context manager; all methods raise `ClientError`.

    ``patience``: seconds for which a broken stream is retried without success. ``on_trouble`` is called with a text
    when a stream breaks, and with None when it is back.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        patience: float = 60.0,
        silence: float = SILENCE,
        on_trouble: Callable[[str | None], None] = lambda text: None,
    ) -> None:
        self._endpoint = endpoint
        self._patience = patience
        self._on_trouble = on_trouble
        headers = {"X-Portico": "1"}  # where no token is needed, this tells us from a web page
        if endpoint.token:
            headers["Authorization"] = f"Bearer {endpoint.token}"
        self._stream_timeout = httpx.Timeout(CALL_SECONDS, connect=10, read=silence)
        self._dialler = OverlayDialler(endpoint.overlay) if endpoint.overlay else None
        through: httpx.AsyncHTTPTransport | None = None
        if self._dialler:
            through = transport(self._dialler)
        elif endpoint.uds:
            through = httpx.AsyncHTTPTransport(uds=endpoint.uds)
        trust = endpoint.trust()
        self._http = httpx.AsyncClient(
            verify=True if trust is None else trust,
            base_url=endpoint.url + endpoint.api_prefix,
            transport=through,
            headers=headers,
            timeout=httpx.Timeout(CALL_SECONDS, connect=10),
            trust_env=not (endpoint.local or endpoint.overlay),  # no proxy leads to this machine, or onto an overlay
        )
        self._prefix = endpoint.api_prefix
        self._settled = False
        self._metrics: str | None = None
        self.lost = False
        """True while a stream is broken."""

    async def __aenter__(self) -> Self:
        if self._dialler:
            await self._log_in(self._dialler)
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._http.__aexit__(kind, error, trace)
        finally:
            if self._dialler:
                await self._dialler.close()

    async def _log_in(self, dialler: OverlayDialler) -> None:
        """Log in before any request: requests have time limits of their own, which the login would use up."""
        try:
            await dialler.start()
        except DialFailed as error:
            raise Unreachable(f"can't reach {self._endpoint.address}: {error}") from None

    async def create_session(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Create a session with ``fields`` as in `POST /sessions`; those that are None are left out."""
        body = {name: value for name, value in fields.items() if value is not None}
        return await self._call("POST", "/sessions", json=body)

    async def session(self, session_id: str) -> dict[str, Any]:
        return await self._call("GET", _path(session_id))

    async def change_session(self, session_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Change ``fields`` as in `PATCH /sessions/{id}`; return the session."""
        return await self._call("PATCH", _path(session_id), json=fields)

    async def sessions(self) -> list[dict[str, Any]]:
        """Return all sessions, newest first."""
        found: list[dict[str, Any]] = []
        parameters: dict[str, Any] = {"limit": 100}
        while True:
            page = await self._call("GET", "/sessions", params=parameters)
            found += page["sessions"]
            if not page["next_cursor"]:
                return found
            parameters["cursor"] = page["next_cursor"]

    async def some_sessions(self, state: str, limit: int) -> list[dict[str, Any]]:
        """Return the newest sessions in this state, at most ``limit`` (up to 100)."""
        found: list[dict[str, Any]] = (await self._call("GET", "/sessions", params={"state": state, "limit": limit}))[
            "sessions"
        ]
        return found

    async def metrics(self) -> str:
        """Return the server's numbers, in Prometheus' text format."""
        # They are at the server's root, whose path is a part of the API's: a proxy may have put more in front.
        parts = self._prefix.split("/")
        roots = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        for root in roots if self._metrics is None else [self._metrics]:
            try:
                answer = await self._answer("GET", f"{self._endpoint.url}{root}/metrics")
            except (ProblemError, Stranger) as error:
                if isinstance(error, ProblemError) and error.status != 404:
                    raise
            else:
                self._metrics = root
                return answer.text
        raise ProblemError(404, "not_found", "the server has no metrics")

    async def close_session(self, session_id: str, *, purge: bool = False) -> None:
        """Close a session. ``purge``: delete its history and its workspace too."""
        await self._call("DELETE", _path(session_id), params={"purge": "true"} if purge else {})

    async def history(self, session_id: str, *, after: int, limit: int) -> list[Event]:
        """Return at most ``limit`` (up to 5,000) of the present events after ``after``."""
        events: list[Event] = (await self._page(session_id, after, limit))["events"]
        return events

    async def whole_history(self, session_id: str) -> AsyncGenerator[Event, None]:
        """Yield all present events, read page by page; a ``gap`` comes first if older ones were deleted."""
        after, more = 0, True
        while more:
            page = await self._page(session_id, after, PAGE)
            for event in page["events"]:
                yield event
            after, more = page["next_after"], page["has_more"]

    async def _page(self, session_id: str, after: int, limit: int) -> dict[str, Any]:
        parameters = {"live": "false", "after": after, "limit": limit}
        return await self._call("GET", f"{_path(session_id)}/events", params=parameters)

    async def interrupt(self, session_id: str, turn_id: str, *, begun: bool) -> None:
        """Stop a turn; if it waits behind another, withdraw it, so that the other is not stopped in its place.

        ``begun``: more of the turn than its ``query`` has been seen.
        """
        if not begun and (await self.session(session_id))["queued"]:
            try:
                await self._call("DELETE", f"{_path(session_id)}/turns/{quote(turn_id, safe='')}")
                return
            except ProblemError as error:
                if error.status != 409:  # 409: it runs, and others wait behind it
                    raise
        await self._call("POST", f"{_path(session_id)}/interrupt")

    async def answer(self, session_id: str, request_id: str, answer: Mapping[str, Any]) -> None:
        """Answer a permission request, with a body as of `POST .../permissions/{request_id}`."""
        path = f"{_path(session_id)}/permissions/{quote(request_id, safe='')}"
        await self._call("POST", path, json=dict(answer))

    async def query(
        self, session_id: str, content: str | list[dict[str, Any]], *, turn_id: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Start a turn; yield its events, each once, up to its ``complete``, whatever happens to the connection.

        Until an event has come, the same ``turn_id`` is sent again: the server runs it at most once. After that, the
        stream continues by reading the session's events, which starts nothing.
        """
        turn_id = turn_id or str(uuid.uuid4())
        body = {"query": content, "turn_id": turn_id}

        def start() -> httpx.Request:
            return self._stream("POST", f"/stream/{quote(session_id, safe='')}", json=body)

        async with aclosing(self._events(session_id, turn_id, 0, start)) as events:
            async for event in events:
                yield event

    async def follow(self, session_id: str, turn_id: str, *, after: int) -> AsyncGenerator[Event, None]:
        """Yield the events of a turn that was started before, from ``after`` on, up to its ``complete``."""
        async with aclosing(self._events(session_id, turn_id, after, None)) as events:
            async for event in events:
                yield event

    async def agent_turn(self, session_id: str, *, after: int) -> None:
        """Return once the agent begins a turn by itself, after the event ``after``; never, if the stream ends."""
        request = self._stream("GET", f"{_path(session_id)}/events", after=after)
        with suppress(httpx.RequestError, _GatewayTrouble, ClientError):
            async with aclosing(self._frames(request)) as frames:
                async for event in frames:
                    if event and begun_by_agent(event):
                        return
        await anyio.sleep_forever()

    async def _events(
        self, session_id: str, turn_id: str, after: int, start: Callable[[], httpx.Request] | None
    ) -> AsyncGenerator[Event, None]:
        failures, opened, give_up_at = 0, math.inf, 0.0
        try:
            while True:
                request = start() if start else self._stream("GET", f"{_path(session_id)}/events", after=after)
                reason = f"{self._endpoint.address} ended the stream before the answer was complete"
                try:
                    async with aclosing(self._frames(request)) as frames:
                        async for event in frames:
                            if event is None:
                                opened = anyio.current_time()
                                self._found()
                                continue
                            failures = 0
                            if event["type"] == "gap":
                                raise HistoryLost("part of this answer was deleted on the server in the meantime")
                            if event["seq"] <= after:
                                continue
                            start, after = None, event["seq"]
                            if event.get("turn_id") == turn_id:
                                yield event
                                if event["type"] == "complete":
                                    return
                except httpx.RequestError as error:
                    reason = explain(error, self._endpoint)
                except _GatewayTrouble as error:
                    reason = str(error)
                now = anyio.current_time()
                if now - opened > STEADY:
                    failures = 0
                opened = math.inf
                give_up_at = give_up_at if failures else now + self._patience
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                if now + pause > give_up_at:
                    raise Unreachable(reason)
                failures += 1
                if failures == 2:  # the first attempt usually succeeds: not worth a message
                    self.lost = True
                    self._on_trouble(reason)
                await anyio.sleep(pause)
        finally:
            self.lost = False

    def _found(self) -> None:
        if self.lost:
            self.lost = False
            self._on_trouble(None)

    async def _frames(self, request: httpx.Request) -> AsyncGenerator[Event | None, None]:
        """Yield None once the stream is open, then its events."""
        response = await self._http.send(request, stream=True)
        try:
            await self._check(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._stranger(response)
            yield None
            async with aclosing(EventSource(response).aiter_sse()) as frames:
                async for frame in frames:
                    if frame.data:  # httpx-sse makes an event of the blank line behind a comment (older servers)
                        yield json.loads(frame.data)
        finally:
            await response.aclose()

    def _stream(self, method: str, path: str, *, json: Any = None, **parameters: Any) -> httpx.Request:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        parameters["heartbeat"] = HEARTBEAT
        return self._http.build_request(
            method, path, json=json, params=parameters, headers=headers, timeout=self._stream_timeout
        )

    async def _answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            with anyio.fail_after(CALL_SECONDS):
                response = await self._http.request(method, path, **arguments)
                if path.startswith("/") and self._is_elsewhere(response):
                    response = await self._http.request(method, path, **arguments)
                await self._check(response)
        except httpx.RequestError as error:
            raise Unreachable(explain(error, self._endpoint)) from error
        except TimeoutError:
            raise Unreachable(f"{self._endpoint.address} does not answer") from None
        except _GatewayTrouble as error:
            raise Unreachable(str(error)) from None
        return response

    def _is_elsewhere(self, response: httpx.Response) -> bool:
        """Tell whether the API may lie one step below the path that the user gave; if so, go there from now on."""
        if self._settled:
            return False
        self._settled = True
        if response.status_code != 404 or code_of(response) not in (None, "not_found"):
            return False
        self._prefix += API_PREFIX
        self._http.base_url = httpx.URL(self._endpoint.url + self._prefix)
        return True

    async def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = await self._answer(method, path, **arguments)
        if not response.content:
            return {}
        try:
            answer: dict[str, Any] = response.json()
        except ValueError:
            raise self._stranger(response) from None
        return answer

    async def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        await response.aread()
        status, code = response.status_code, code_of(response)
        if code is None:
            said = describe(response, self._endpoint.address)
            if status in GATEWAY:
                raise _GatewayTrouble(said)
            if response.is_redirect:
                target = visible(response.headers.get("location", ""))
                raise Unreachable(f"{self._endpoint.address} sends us to {target}: give that as --server")
            raise Unreachable(said) if said else self._stranger(response)
        detail = str(response.json().get("detail", ""))
        if code == "not_found":
            detail += f": --server wants the path of the API too, such as {self._endpoint.url}/agents{API_PREFIX}"
        if status == 401 or code == "too_many_attempts":
            tried = self._endpoint.token_source
            what = f"does not take the token from {tried}" if tried else "wants a token"
            detail = f"{self._endpoint.address} {what}: give one of its tokens with --token or PORTICO_TOKEN"
        raise ProblemError(status, code, detail)

    def _stranger(self, response: httpx.Response) -> Stranger:
        where = self._endpoint.address + self._endpoint.api_prefix
        by = f" from {name}" if (name := name_of(response)) else ""
        answer = f"status {response.status_code}{by}"
        below = "A server below a path of another site needs that path in it"
        return Stranger(f"what answers at {where} is no Portico server ({answer}): is the address right? {below}")


class _GatewayTrouble(Exception):
    pass


def begun_by_agent(event: Event) -> bool:
    """Tell whether a turn begins here that the agent has begun by itself."""
    return event["type"] == "query" and event["principal"] is None


def _path(session_id: str) -> str:
    return f"/sessions/{quote(session_id, safe='')}"

"""The streaming side of the API: a turn as it happens, and the history of a session, live or page by page."""

from __future__ import annotations

from contextlib import ExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from portico.core.engine import Engine
from portico.core.events import first_of
from portico.core.reader import Reader
from portico.core.requests import NewTurn
from portico.transports import wire
from portico.transports.auth import principal_of
from portico.transports.endpoint import method_not_allowed, route
from portico.transports.eventstream import EventStream
from portico.transports.models import EventParameters, StreamParameters
from portico.transports.parse import check, parse_event_id, parse_query, with_idempotency_key
from portico.transports.sessions import read_turn
from portico.transports.streams import Streams

PAGE_EVENTS = 500
PAGE_BYTES = 8 * 1024 * 1024
"""A page ends early where its events are huge; there is always one in it, if there is any."""


class EventRoutes:
    """``prefix`` is the path that the API lies under; ``max_body`` is in bytes."""

    def __init__(self, engine: Engine, streams: Streams, prefix: str, max_body: int) -> None:
        self._engine = engine
        self._streams = streams
        self._prefix = prefix
        self._max_body = max_body

    def routes(self) -> list[Route]:
        return [
            route(f"{self._prefix}/stream/{{session_id}}", head=False, GET=self._get_turn, POST=self._post_turn),
            route(f"{self._prefix}/sessions/{{session_id}}/events", GET=self._events),
        ]

    async def _get_turn(self, request: Request) -> Response:
        # A GET that does something: what fetches without being asked to must not set it off.
        if any("prefetch" in request.headers.get(name, "").lower() for name in ("sec-purpose", "purpose")):
            raise method_not_allowed("GET", "POST")
        values = with_idempotency_key(request, parse_query(request.scope["query_string"]))
        return await self._turn(request, check(StreamParameters, values).request())

    async def _post_turn(self, request: Request) -> Response:
        return await self._turn(request, await read_turn(request, self._max_body))

    async def _turn(self, request: Request, turn: NewTurn) -> Response:
        principal, session_id = principal_of(request), request.path_params["session_id"]
        last_seq = parse_event_id(request.headers.get("last-event-id"))
        with ExitStack() as held:
            held.enter_context(self._streams.hold(principal))
            if last_seq is not None:  # comes back after a cut: whatever the URL says, nothing is run again
                resumed = await self._engine.resume(principal, session_id, last_seq, turn_id=turn.turn_id)
                return self._stream(resumed, held) if resumed else Response(status_code=204)
            accepted = await self._engine.query(principal, session_id, turn)
            reader = await self._engine.reader(
                principal, session_id, after=accepted.first_seq - 1, turn_id=accepted.turn_id
            )
            return self._stream(reader, held)

    async def _events(self, request: Request) -> Response:
        asked = check(EventParameters, parse_query(request.scope["query_string"]))
        last_seq = parse_event_id(request.headers.get("last-event-id"))
        after = asked.after if last_seq is None else last_seq
        principal, session_id = principal_of(request), request.path_params["session_id"]
        if asked.live:
            session = await self._engine.session(principal, session_id)
            if last_seq is not None and session["state"] == "closed" and last_seq == session["last_seq"]:
                return Response(status_code=204)  # ends a browser's coming back
            with ExitStack() as held:
                held.enter_context(self._streams.hold(principal))
                return self._stream(await self._engine.reader(principal, session_id, after=after), held)
        events, has_more = await self._engine.history(
            principal, session_id, after=after, limit=asked.limit or PAGE_EVENTS
        )
        page = first_of(events, PAGE_BYTES)
        next_after = page[-1].seq if page else after
        return Response(wire.page(page, next_after, has_more or len(page) < len(events)), media_type="application/json")

    def _stream(self, reader: Reader, held: ExitStack) -> EventStream:
        return EventStream(reader, self._streams, held.pop_all())

"""The streaming side of the API: a turn as it happens, and the history of a session, live or page by page."""

from __future__ import annotations

from contextlib import ExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from portico.core.events import first_of
from portico.core.reader import Reader
from portico.core.requests import NewTurn
from portico.core.sessions import Sessions
from portico.transports import wire
from portico.transports.admission import QUERY, READ, Admission
from portico.transports.auth import principal_of
from portico.transports.endpoint import Handler, method_not_allowed, route
from portico.transports.eventstream import SESSION_SECONDS, TURN_SECONDS, EventStream
from portico.transports.models import TurnBody
from portico.transports.operation import IDEMPOTENCY_KEY, JSON, LAST_EVENT_ID, Answer, operation
from portico.transports.parameters import EventParameters, FollowParameters, StreamParameters
from portico.transports.parse import parse_event_id, parse_seq
from portico.transports.session_routes import TURN_CODES, visible
from portico.transports.shapes import EventPage, ServerSentEvent, WireEvent
from portico.transports.streams import Streams

EVENT_STREAM = "text/event-stream"
TURN_STREAM = (
    Answer(200, "The events of the turn, `query` first and `complete` last.", ServerSentEvent, EVENT_STREAM),
    Answer(204, "With `Last-Event-ID`: the turn is over, and all its events were sent."),
)

PAGE_EVENTS = 500
PAGE_BYTES = 8 * 1024 * 1024
"""A page ends early if its events are huge, but has at least one event if there is any."""


class EventRoutes:
    """The routes of events. ``prefix`` is the path of the API; ``max_body`` is in bytes.

    ``heartbeat`` is the operator's, in seconds; None: as `eventstream` has it.
    """

    def __init__(
        self, engine: Sessions, streams: Streams, prefix: str, max_body: int, heartbeat: float | None = None
    ) -> None:
        self._engine = engine
        self._streams = streams
        self._prefix = prefix
        self._max_body = max_body
        self._heartbeat = heartbeat

    def routes(self) -> list[Route]:
        stream = f"{self._prefix}/stream/{{session_id}}"
        turns: dict[str, Handler] = {"GET": self._get_turn, "POST": self._post_turn}
        return [
            route(stream, head=False, max_body=self._max_body, check=visible(self._engine), **turns),
            route(f"{self._prefix}/sessions/{{session_id}}/events", GET=self._events),
            route(f"{self._prefix}/sessions/{{session_id}}/events/{{seq}}", GET=self._event),
        ]

    @operation(
        "streamQuery",
        "Start a turn, and stream it",
        *TURN_STREAM,
        codes=(*TURN_CODES, "method_not_allowed", "too_many_streams", "turn_not_found", "after_too_large"),
        headers=(LAST_EVENT_ID, IDEMPOTENCY_KEY),
        admission=Admission(changes=True, ticket="query", resume="read"),
    )
    async def _get_turn(self, request: Request, query: StreamParameters) -> Response:
        """For `EventSource`. The stream ends after the turn's `complete`. With `Last-Event-ID` it resumes the turn of
        that event, and never runs the query again. HEAD and prefetches get 405."""
        # This GET changes something, so a fetch that the user did not ask for must not trigger it.
        if any("prefetch" in request.headers.get(name, "").lower() for name in ("sec-purpose", "purpose")):
            raise method_not_allowed("GET", "POST")
        return await self._turn(request, query.request(), query)

    @operation(
        "streamTurn",
        "Start a turn, and stream it, with the query kept out of URLs and logs",
        *TURN_STREAM,
        codes=(*TURN_CODES, "too_many_streams", "turn_not_found", "after_too_large"),
        headers=(LAST_EVENT_ID, IDEMPOTENCY_KEY),
        admission=QUERY,
    )
    async def _post_turn(self, request: Request, query: FollowParameters, body: TurnBody) -> Response:
        """The stream ends after the turn's `complete`. The turn goes on if the client disconnects."""
        return await self._turn(request, body.request(), query)

    async def _turn(self, request: Request, turn: NewTurn, query: FollowParameters) -> Response:
        principal, session_id = principal_of(request), request.path_params["session_id"]
        last_seq = parse_event_id(request.headers)
        with ExitStack() as held:
            held.enter_context(self._streams.hold(principal))
            if last_seq is not None:  # a client is back after a cut: whatever the URL says, nothing runs again
                resumed = await self._engine.resume(principal, session_id, last_seq, turn_id=turn.turn_id)
                return (
                    self._stream(resumed, held, request, query, TURN_SECONDS) if resumed else Response(status_code=204)
                )
            principal = await self._engine.bind(principal, session_id)  # so we read the session that runs the turn
            accepted = await self._engine.query(principal, session_id, turn)
            reader = await self._engine.reader(
                principal, session_id, after=accepted.first_seq - 1, turn_id=accepted.turn_id
            )
            return self._stream(reader, held, request, query, TURN_SECONDS)

    @operation(
        "readEvents",
        "Read a session's events",
        Answer(200, "The events, live and for ever.", ServerSentEvent, EVENT_STREAM),
        Answer(200, "With `live=false`: a page of them.", EventPage),
        Answer(204, "All events were sent, and the session is closed: a browser need not reconnect."),
        codes=("after_too_large", "too_many_streams"),
        headers=(LAST_EVENT_ID,),
        admission=READ,
    )
    async def _events(self, request: Request, query: EventParameters) -> Response:
        """All events after `after` (or `Last-Event-ID`), and then new ones as they happen."""
        last_seq = parse_event_id(request.headers)
        after = query.after if last_seq is None else last_seq
        principal, session_id = principal_of(request), request.path_params["session_id"]
        if query.live:
            principal = await self._engine.bind(principal, session_id)
            session = await self._engine.session(principal, session_id)
            if last_seq is not None and session["state"] == "closed" and last_seq == session["last_seq"]:
                return Response(status_code=204)  # a browser stops reconnecting
            with ExitStack() as held:
                held.enter_context(self._streams.hold(principal))
                reader = await self._engine.reader(principal, session_id, after=after)
                return self._stream(reader, held, request, query, SESSION_SECONDS)
        principal = await self._engine.bind(principal, session_id)
        events, has_more = await self._engine.history(
            principal, session_id, after=after, limit=query.limit or PAGE_EVENTS, subagents=query.subagents
        )
        page = first_of(events, PAGE_BYTES)
        if query.max_event is not None:
            page = await self._streams.cutter.fitting(page, query.max_event, principal.bound_to)
        next_after = page[-1].seq if page else after
        return Response(wire.page(page, next_after, has_more or len(page) < len(events)), media_type=JSON)

    @operation(
        "readEvent",
        "Read one event of a session",
        Answer(200, "The event, whole.", WireEvent),
        codes=("event_not_found", "event_deleted"),
        admission=READ,
    )
    async def _event(self, request: Request) -> Response:
        """An event that was `cut` elsewhere (`max_event`) is whole here."""
        session_id, seq = request.path_params["session_id"], request.path_params["seq"]
        event = await self._engine.event(principal_of(request), session_id, parse_seq(seq))
        return Response(event.data, media_type=JSON)

    def _stream(
        self, reader: Reader, held: ExitStack, request: Request, query: FollowParameters, heartbeat: float
    ) -> EventStream:
        if not query.subagents:
            reader.leave_out_subagents()
        heartbeat = query.heartbeat or self._heartbeat or heartbeat
        return EventStream(reader, self._streams, held.pop_all(), request.scope, heartbeat, query.max_event)

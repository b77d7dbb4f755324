"""WebSockets: a session's events as they happen, and its client's queries, answers and interrupts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import anyio
from starlette.requests import Request
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Scope
from starlette.websockets import WebSocket

from portico.core.errors import InvalidRequest, PorticoError, Unauthenticated, Unavailable
from portico.core.events import encode_json
from portico.core.intake import Intake
from portico.core.sessions import Sessions
from portico.transports import wire
from portico.transports.admission import Admission, admitting
from portico.transports.auth import set_caller
from portico.transports.caller import Caller, caller_of
from portico.transports.endpoint import route
from portico.transports.framed import FramedConversation
from portico.transports.frames import SUBPROTOCOL, AuthFrame, read_frame, subprotocol_of
from portico.transports.gate import CallerGate
from portico.transports.operation import Answer, operation
from portico.transports.parameters import SocketParameters
from portico.transports.parse import check, parse_query
from portico.transports.peer import WebSocketPeer
from portico.transports.plain import PlainConversation
from portico.transports.refusals import note_refusal
from portico.transports.streams import Streams

AUTH_SECONDS = 10.0
"""The time for the first frame of a client that sends its credentials in it."""
NOT_PASSED_ON = (
    ", which the client has asked for, but a proxy on the way has not passed on. It must send HTTP/1.1 and Upgrade: "
    "nginx `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "
    'upgrade;`, Apache `upgrade=websocket` behind its ProxyPass, lighttpd `proxy.header = ("upgrade" => "enable")`, '
    "Varnish `return (pipe)`, Envoy `upgrade_configs`"
)
"""More for the detail of 426, for a request that was one for a WebSocket before a proxy took its headers off."""


class WebSocketRoutes:
    """The routes of WebSockets. ``prefix`` is the path of the API; ``intake`` bounds how much callers send.

    ``heartbeat`` is the operator's, in seconds between pings; None: as the server has it.
    """

    def __init__(
        self,
        engine: Sessions,
        streams: Streams,
        gate: CallerGate,
        prefix: str,
        intake: Intake,
        heartbeat: float | None = None,
    ) -> None:
        self._engine = engine
        self._streams = streams
        self._gate = gate
        self._prefix = prefix
        self._intake = intake
        self._heartbeat = heartbeat

    def routes(self) -> Sequence[BaseRoute]:
        path = f"{self._prefix}/ws/{{session_id}}"
        return [WebSocketRoute(path, self._serve), route(path, GET=_no_handshake)]

    @admitting(Admission(ticket="read", first_frame=True))
    async def _serve(self, socket: WebSocket) -> None:
        framed = (subprotocol := subprotocol_of(socket.scope)) is not None
        await socket.accept(subprotocol)
        peer, scope = WebSocketPeer(socket), socket.scope
        if not framed and (offered := scope["subprotocols"]):  # else its frames would be taken for queries
            detail = f"of these subprotocols none is known: {', '.join(offered)}; there is {SUBPROTOCOL}"
            raise InvalidRequest(detail, code="unknown_subprotocol")
        if (caller := caller_of(scope)) is None:
            caller = await self._authenticate(peer, scope, framed)
            set_caller(scope, caller)
        else:
            self._trust(peer, caller)
        session_id = socket.path_params["session_id"]
        asked = check(SocketParameters, parse_query(scope["query_string"]))
        if heartbeat := asked.heartbeat or self._heartbeat:
            peer.ping_every(heartbeat)
        parts = peer, self._engine, self._streams, caller.principal, session_id
        shared = {"caller": caller, "intake": self._intake, "subagents": asked.subagents, "max_event": asked.max_event}
        if framed:
            if asked.turn_id is not None:
                raise InvalidRequest(f"turn_id: in {SUBPROTOCOL} each query frame has its own")
            callers, noting = self._gate.callers(scope), partial(note_refusal, self._engine.audit, scope)
            talk = FramedConversation(*parts, **shared, callers=callers, note_refusal=noting)
            await talk.run(asked.after)
        else:
            await PlainConversation(*parts, **shared, turn_id=asked.turn_id).run(asked.after)
        if caller.over:
            raise Unauthenticated("the credentials are not valid any more")
        stopping = self._streams.stopped or self._engine.draining
        await socket.close(wire.GOING_AWAY if stopping else wire.NORMAL)

    async def _authenticate(self, peer: WebSocketPeer, scope: Scope, framed: bool) -> Caller:
        """Return the caller whose credentials come in the first frame. Raises `Unauthenticated`."""
        if not framed:
            raise Unauthenticated("credentials are missing: send them in a header, or in an auth frame of portico.v1")
        frame = None
        with self._streams.waiting(), anyio.move_on_after(AUTH_SECONDS):
            frame = await read_frame(await peer.receive(), self._intake)
        if self._streams.stopped:
            raise Unavailable("the server is stopping", code="draining")
        if frame is None or frame.type != "auth":
            raise Unauthenticated(f"the first frame must be auth, and come within {AUTH_SECONDS:g} s")
        try:
            caller = await self._gate.by_secret(scope, check(AuthFrame, frame.members).token)
        except PorticoError as error:
            if frame.id is not None:
                await peer.send([encode_json(frame.answer(wire.nack(error)))])
            raise
        self._trust(peer, caller)  # from the answer on the client may send long messages
        if frame.id is not None:
            await peer.send([encode_json(frame.answer({"type": "ack"}))])
        return caller

    def _trust(self, peer: WebSocketPeer, caller: Caller) -> None:
        """Let the client send long messages, unless it may only read."""
        if not caller.reads_only:
            peer.trust(self._intake.open(caller.principal.name))


@operation(
    "openWebSocket",
    "A session's events as they happen, and its client's queries, answers and interrupts",
    Answer(101, "From here on the connection speaks WebSocket."),
    codes=("upgrade_required",),
    admission=Admission(ticket="read", first_frame=True),
)
async def _no_handshake(request: Request, query: SocketParameters) -> NoReturn:
    """Without a subprotocol every text message is a query, and the server sends messages as in `PlainMessage`. With the
    subprotocol `portico.v1` the client sends `ClientMessage`s and the server sends `ServerMessage`s. With `after` the
    server sends all later events, and then new ones as they happen. `turn_id` is the id of the turn of the first query
    without a subprotocol: one that is known is attached to, and never runs again. `heartbeat` is the time between pings
    in seconds.

    Credentials come in a header, or, with the subprotocol, in the first frame. Only a wrong Host or Origin is refused
    at the handshake; anything else is accepted first, and then closed with a code: 1000 the session is closed, 1001 the
    server stops, 1008 refused by a rule that has no code of its own, 1009 a message is too large, 1011 a fault in the
    server, 1013 the server can't do it now, 4400 malformed, 4401 no credentials or wrong ones, 4403 not allowed, 4404
    no such session, 4429 a limit is reached."""
    headers = {"upgrade": "websocket", "connection": "upgrade"}
    detail = "this path speaks WebSocket"
    if "upgrade" in request.headers or any(name.startswith("sec-websocket-") for name in request.headers):
        detail += NOT_PASSED_ON
    raise wire.HttpError(426, "upgrade_required", detail, headers)

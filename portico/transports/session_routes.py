"""The REST side of the API: sessions, turns, interrupts, permissions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from portico.core.audit import OK
from portico.core.encoding import encode_in_turns
from portico.core.requests import SessionChanges, SessionView
from portico.core.sessions import Sessions
from portico.core.tickets import Tickets
from portico.transports.admission import QUERY, READ
from portico.transports.answer_bodies import PermissionAnswer, SessionPage, TicketAnswer, TurnAnswer
from portico.transports.auth import principal_of
from portico.transports.endpoint import Check, route
from portico.transports.models import (
    KIB,
    ForkBody,
    PermissionBody,
    SessionBody,
    SessionPatch,
    TicketBody,
    TurnBody,
)
from portico.transports.mount import mount_of
from portico.transports.operation import IDEMPOTENCY_KEY, JSON, LOCATION, Answer, operation
from portico.transports.parameters import DeleteParameters, ListParameters

TURN_CODES = (
    *("not_supported", "session_closed", "busy", "queue_full", "too_many_sessions", "too_many_turns", "draining"),
    *("turn_id_mismatch", "driver_not_loaded"),
)
"""The codes that may refuse a turn, wherever it is started."""


SESSION_BYTES, PATCH_BYTES, PERMISSION_BYTES, TICKET_BYTES = 2048 * KIB, 256 * KIB, 2048 * KIB, 4 * KIB
"""The limits of bodies. All that `portico.transports.models` allows fits, even if escapes and blanks make it longer."""


def visible(engine: Sessions) -> Check:
    """Make a check that refuses requests about a missing or somebody else's session before their body is read."""

    async def check(request: Request) -> None:
        await engine.session(principal_of(request), request.path_params["session_id"])

    return check


class SessionRoutes:
    """The routes of sessions. ``prefix`` is the path of the API; ``max_body`` is in bytes."""

    def __init__(self, engine: Sessions, prefix: str, max_body: int, tickets: Tickets) -> None:
        self._engine = engine
        self._prefix = prefix
        self._max_body = max_body
        self._tickets = tickets

    def routes(self) -> list[Route]:
        one = f"{self._prefix}/sessions/{{session_id}}"

        def of_one(path: str, max_body: int = 0) -> Callable[..., Route]:
            limit = min(max_body, self._max_body)
            return partial(route, f"{one}{path}", max_body=limit, check=visible(self._engine))

        limit = min(SESSION_BYTES, self._max_body)
        return [
            route(f"{self._prefix}/sessions", max_body=limit, GET=self._list, POST=self._create),
            of_one("", PATCH_BYTES)(GET=self._get, PATCH=self._patch, DELETE=self._delete),
            of_one("/turns", self._max_body)(POST=self._query),
            of_one("/turns/{turn_id}")(DELETE=self._withdraw),
            of_one("/fork", PATCH_BYTES)(POST=self._fork),
            of_one("/interrupt")(POST=self._interrupt),
            of_one("/permissions/{request_id}", PERMISSION_BYTES)(POST=self._answer),
            of_one("/permission_rules/{rule_id}")(DELETE=self._revoke),
            of_one("/tickets", TICKET_BYTES)(POST=self._ticket),
        ]

    @operation(
        "createSession",
        "Open a session",
        Answer(201, "The session.", SessionView, headers=(LOCATION,)),
        codes=(
            *(
                "not_allowed",
                "session_exists",
                "unknown_driver",
                "invalid_cwd",
                "invalid_add_dirs",
                "not_supported",
                "too_many_sessions",
                "draining",
            ),
            *("agent_unavailable", "workspaces_unusable"),
        ),
    )
    async def _create(self, request: Request, body: SessionBody) -> Response:
        """Its agent starts with the first turn, unless one is ready. Without `session_id` the server makes an id."""
        session = await self._engine.create(principal_of(request), body.request())
        return await self._created(request, session)

    @operation(
        "forkSession",
        "Open a session with the history of another one",
        Answer(201, "The new session.", SessionView, headers=(LOCATION,)),
        codes=(
            *("not_allowed", "turn_not_found", "turn_not_over", "not_forkable", "not_supported", "session_exists"),
            *("too_many_sessions", "workspace_too_large", "draining", "agent_unavailable", "workspaces_unusable"),
            *("driver_not_loaded", "workspace_moved", "workspace_not_allowed"),
        ),
    )
    async def _fork(self, request: Request, body: ForkBody) -> Response:
        """It knows what the other one knew at the end of the turn `turn_id`, by default of its last turn, and has those
        turns in its history. The other session stays as it is.
        """
        session_id = request.path_params["session_id"]
        session = await self._engine.fork(principal_of(request), session_id, body.request())
        return await self._created(request, session)

    async def _created(self, request: Request, session: SessionView) -> Response:
        location = f"{mount_of(request.scope)}{self._prefix}/sessions/{session['session_id']}"
        return await json_answer(session, 201, {"location": location})

    @operation(
        "listSessions", "List the caller's sessions", Answer(200, "A page.", SessionPage), codes=("invalid_cursor",)
    )
    async def _list(self, request: Request, query: ListParameters) -> Response:
        """Newest first. An admin sees everybody's. A page ends before `limit` if the sessions have much metadata."""
        sessions, cursor = await self._engine.sessions(
            principal_of(request), state=query.state, limit=query.limit, cursor=query.cursor
        )
        return await json_answer(SessionPage(sessions=sessions, next_cursor=cursor))

    @operation("getSession", "Look at a session", Answer(200, "The session.", SessionView), admission=READ)
    async def _get(self, request: Request) -> Response:
        return await json_answer(await self._engine.session(principal_of(request), request.path_params["session_id"]))

    @operation(
        "changeSession",
        "Change a session",
        Answer(200, "The session.", SessionView),
        codes=("not_allowed", "session_closed", "not_supported", "driver_not_loaded"),
    )
    async def _patch(self, request: Request, body: SessionPatch) -> Response:
        """A new model or permission mode takes effect with the next turn."""
        session_id = request.path_params["session_id"]
        return await json_answer(await self._engine.change(principal_of(request), session_id, body.changes()))

    @operation(
        "closeSession",
        "Close a session",
        Answer(204, "It is closed, and with `purge` deleted."),
        codes=("still_stopping", "driver_not_loaded"),
    )
    async def _delete(self, request: Request, query: DeleteParameters) -> Response:
        """Its agent is stopped and its slot freed; its history stays, unless `purge` is true."""
        await self._engine.close(principal_of(request), request.path_params["session_id"], purge=query.purge)
        return Response(status_code=204)

    @operation(
        "startTurn",
        "Start a turn, without waiting for it",
        Answer(202, "It is accepted, and runs even if the client disconnects.", TurnAnswer),
        codes=TURN_CODES,
        headers=(IDEMPOTENCY_KEY,),
        admission=QUERY,
    )
    async def _query(self, request: Request, body: TurnBody) -> Response:
        """Its events are among those of the session. A known `turn_id` does not start a second turn."""
        turn = await self._engine.query(principal_of(request), request.path_params["session_id"], body.request())
        return await json_answer(TurnAnswer(turn_id=turn.turn_id, session_id=turn.session_id, state=turn.state), 202)

    @operation(
        "withdrawTurn",
        "Take a turn out of the queue",
        Answer(204, "It will not run."),
        codes=("turn_not_found", "not_queued"),
        admission=QUERY,
    )
    async def _withdraw(self, request: Request) -> Response:
        session_id, turn_id = request.path_params["session_id"], request.path_params["turn_id"]
        await self._engine.withdraw(principal_of(request), session_id, turn_id)
        return Response(status_code=204)

    @operation(
        "interruptTurn",
        "Stop the running turn",
        Answer(202, "It will end soon, with its `complete`."),
        codes=("not_running", "not_supported", "driver_not_loaded"),
        admission=QUERY,
    )
    async def _interrupt(self, request: Request) -> Response:
        await self._engine.interrupt(principal_of(request), request.path_params["session_id"])
        return Response(status_code=202)

    @operation(
        "answerPermission",
        "Answer a permission request",
        Answer(200, "The answer counts.", PermissionAnswer),
        codes=(
            *("request_not_found", "already_resolved", "invalid_answer", "not_allowed", "not_supported"),
            *("driver_not_loaded", "unknown_suggestion"),
        ),
        admission=QUERY,
    )
    async def _answer(self, request: Request, body: PermissionBody) -> Response:
        """The first answer wins; later ones learn whose it was. It must fit what was asked, by the request's `kind`."""
        request_id = request.path_params["request_id"]
        await self._engine.answer(principal_of(request), request.path_params["session_id"], request_id, body.decision())
        return await json_answer(PermissionAnswer(request_id=request_id, behavior=body.behavior))

    @operation(
        "revokePermissionRule",
        "Take back a permission rule",
        Answer(204, "It no longer applies, from the next turn on."),
        codes=("rule_not_found", "session_closed", "not_supported", "driver_not_loaded"),
    )
    async def _revoke(self, request: Request) -> Response:
        """The session's `permission_rules` lists what answers with `remember` have allowed."""
        session_id, rule_id = request.path_params["session_id"], request.path_params["rule_id"]
        await self._engine.change(principal_of(request), session_id, SessionChanges(revoked=rule_id))
        return Response(status_code=204)

    @operation(
        "createTicket",
        "Make a ticket, for `EventSource` and browser WebSockets",
        Answer(201, "The ticket.", TicketAnswer),
        codes=("not_allowed", "session_closed"),
    )
    async def _ticket(self, request: Request, body: TicketBody) -> Response:
        """In the parameter `ticket` it replaces its maker's credentials, for this one session, until it expires."""
        principal, session_id = principal_of(request), request.path_params["session_id"]
        identity = await self._engine.identity(principal, session_id)
        ticket, expires_at = self._tickets.make(principal, session_id, identity, body.scope, body.ttl)
        self._engine.audit.note("ticket.create", OK, principal, session_id=session_id, scope=body.scope)
        return await json_answer(TicketAnswer(ticket=ticket, expires_at=expires_at), 201, {"cache-control": "no-store"})


async def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer with this value as JSON."""
    return Response(b"".join(await encode_in_turns(value)), status, headers, JSON)

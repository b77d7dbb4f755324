"""The REST side of the API: sessions, turns, interrupts, permissions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from portico.core.engine import Engine
from portico.core.events import encode_json
from portico.core.requests import NewTurn
from portico.core.tickets import Tickets
from portico.transports.auth import principal_of
from portico.transports.body import read_object
from portico.transports.endpoint import route
from portico.transports.models import (
    DeleteParameters,
    ListParameters,
    PermissionBody,
    SessionBody,
    SessionPatch,
    TicketBody,
    TurnBody,
)
from portico.transports.parse import check, parse_query, with_idempotency_key


class Sessions:
    """``prefix`` is the path that the API lies under; ``max_body`` is in bytes."""

    def __init__(self, engine: Engine, prefix: str, max_body: int, tickets: Tickets) -> None:
        self._engine = engine
        self._prefix = prefix
        self._max_body = max_body
        self._tickets = tickets

    def routes(self) -> list[Route]:
        one = f"{self._prefix}/sessions/{{session_id}}"
        return [
            route(f"{self._prefix}/sessions", GET=self._list, POST=self._create),
            route(one, GET=self._get, PATCH=self._patch, DELETE=self._delete),
            route(f"{one}/turns", POST=self._query),
            route(f"{one}/turns/{{turn_id}}", DELETE=self._withdraw),
            route(f"{one}/interrupt", POST=self._interrupt),
            route(f"{one}/permissions/{{request_id}}", POST=self._answer),
            route(f"{one}/tickets", POST=self._ticket),
        ]

    async def _create(self, request: Request) -> Response:
        body = check(SessionBody, await read_object(request, self._max_body))
        session = await self._engine.create(principal_of(request), body.request())
        return _json(session, 201, {"location": f"{self._prefix}/sessions/{session['session_id']}"})

    async def _list(self, request: Request) -> Response:
        asked = check(ListParameters, parse_query(request.scope["query_string"]))
        sessions, cursor = await self._engine.sessions(
            principal_of(request), state=asked.state, limit=asked.limit, cursor=asked.cursor
        )
        return _json({"sessions": sessions, "next_cursor": cursor})

    async def _get(self, request: Request) -> Response:
        return _json(await self._engine.session(principal_of(request), request.path_params["session_id"]))

    async def _patch(self, request: Request) -> Response:
        body = check(SessionPatch, await read_object(request, self._max_body))
        session_id = request.path_params["session_id"]
        return _json(await self._engine.change(principal_of(request), session_id, body.changes()))

    async def _delete(self, request: Request) -> Response:
        asked = check(DeleteParameters, parse_query(request.scope["query_string"]))
        await self._engine.close(principal_of(request), request.path_params["session_id"], purge=asked.purge)
        return Response(status_code=204)

    async def _query(self, request: Request) -> Response:
        turn = await self._engine.query(
            principal_of(request), request.path_params["session_id"], await read_turn(request, self._max_body)
        )
        return _json({"turn_id": turn.turn_id, "session_id": turn.session_id, "state": turn.state}, 202)

    async def _withdraw(self, request: Request) -> Response:
        session_id, turn_id = request.path_params["session_id"], request.path_params["turn_id"]
        await self._engine.withdraw(principal_of(request), session_id, turn_id)
        return Response(status_code=204)

    async def _interrupt(self, request: Request) -> Response:
        await self._engine.interrupt(principal_of(request), request.path_params["session_id"])
        return Response(status_code=202)

    async def _answer(self, request: Request) -> Response:
        body = check(PermissionBody, await read_object(request, self._max_body))
        request_id = request.path_params["request_id"]
        await self._engine.answer(principal_of(request), request.path_params["session_id"], request_id, body.decision())
        return _json({"request_id": request_id, "behavior": body.behavior})

    async def _ticket(self, request: Request) -> Response:
        body = check(TicketBody, await read_object(request, self._max_body))
        principal, session_id = principal_of(request), request.path_params["session_id"]
        identity = await self._engine.identity(principal, session_id)
        ticket, expires_at = self._tickets.make(principal, session_id, identity, body.scope, body.ttl)
        return _json({"ticket": ticket, "expires_at": expires_at}, 201, {"cache-control": "no-store"})


async def read_turn(request: Request, max_body: int) -> NewTurn:
    """The query in a body. The header ``Idempotency-Key`` is another way to give its ``turn_id``."""
    values = await read_object(request, max_body)
    return check(TurnBody, with_idempotency_key(request, values)).request()


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode_json(value), status, headers, "application/json")

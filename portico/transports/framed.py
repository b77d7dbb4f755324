"""The subprotocol ``portico.v1``: messages are frames, and each frame with an ``id`` is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from portico.core.errors import Conflict, InvalidRequest, MalformedRequest, PorticoError
from portico.core.principal import Callers
from portico.core.reader import Reader
from portico.transports import wire
from portico.transports.conversation import Answer, Conversation
from portico.transports.frames import (
    FRAMES,
    AuthFrame,
    ClientFrame,
    InterruptFrame,
    PermissionFrame,
    QueryFrame,
    ResumeFrame,
    read_frame,
)
from portico.transports.parse import check, check_in_turns
from portico.transports.peer import Pieces


class FramedConversation(Conversation):
    """A conversation in frames, with a method for each type. ``callers`` finds the caller of an ``auth`` frame.

    ``note_refusal`` is called with each error that refuses a frame without ending the connection.
    """

    def __init__(
        self,
        *args: Any,
        callers: Callers,
        note_refusal: Callable[[PorticoError], None] = lambda error: None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._note_refusal = note_refusal
        self._callers = callers
        self._actions: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Answer]]] = {
            "query": self._query,
            "interrupt": self._interrupt,
            "permission": self._permission,
            "auth": self._auth,
        }

    async def _begin(self, after: int | None) -> Reader:
        reader = await super()._begin(after)
        if after is None:  # a client that joins now must still learn of open permission requests
            pending = await self._engine.pending(self._principal, self._session_id)
            await self._pass_on([event for event in pending if event.seq <= reader.after], reader)
        return reader

    async def _hear(self, message: str | Pieces) -> None:
        frame = await read_frame(message, self._intake)
        try:
            if frame.type == "resume":
                await self._resume(frame)
                return
            answer = frame.answer({"type": "ack", **await self._action(frame)(frame.members)})
        except PorticoError as error:
            if frame.id is None and isinstance(error, MalformedRequest | InvalidRequest):
                raise
            self._note_refusal(error)
            await self._tell(frame.answer(wire.nack(error)))
        else:
            if frame.id is not None:
                await self._tell(answer)

    def _action(self, frame: ClientFrame) -> Callable[[Mapping[str, Any]], Awaitable[Answer]]:
        if not isinstance(frame.type, str) or frame.type not in self._actions:
            raise MalformedRequest(f"type must be one of {', '.join(sorted(FRAMES))}")
        if frame.type != "auth":
            self._check_query()
        return self._actions[frame.type]

    async def _query(self, members: Mapping[str, Any]) -> Answer:
        query = await check_in_turns(QueryFrame, members, self._intake.do)
        turn = await self._engine.query(self._principal, self._session_id, query.request())
        return {"turn_id": turn.turn_id, "state": turn.state}

    async def _interrupt(self, members: Mapping[str, Any]) -> Answer:
        check(InterruptFrame, members)
        await self._engine.interrupt(self._principal, self._session_id)
        return {}

    async def _permission(self, members: Mapping[str, Any]) -> Answer:
        asked = check(PermissionFrame, members)
        await self._engine.answer(self._principal, self._session_id, asked.request_id, asked.decision())
        return {}

    async def _auth(self, members: Mapping[str, Any]) -> Answer:
        """Accept credentials sent again, or beside a header, as long as they are the same caller's."""
        if await self._callers.principal(check(AuthFrame, members).token) != self._principal:
            raise Conflict("this connection already belongs to another caller", code="already_authenticated")
        return {}

    async def _resume(self, frame: ClientFrame) -> None:
        after = check(ResumeFrame, frame.members).after
        reader = await self._engine.reader(self._principal, self._session_id, after=after)
        await self._switch(reader, frame.answer({"type": "ack"}) if frame.id is not None else None)

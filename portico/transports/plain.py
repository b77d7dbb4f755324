"""A WebSocket without a subprotocol: every message is a query."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from portico.core.errors import PorticoError
from portico.core.events import Event
from portico.core.text import Text, decode, memory_for
from portico.transports import wire
from portico.transports.answer_bodies import PlainError
from portico.transports.conversation import Conversation
from portico.transports.models import TurnBody
from portico.transports.parse import check_in_turns
from portico.transports.peer import Pieces


class PlainConversation(Conversation):
    """A conversation in queries. With ``own_only`` the client gets the events of its own turns only."""

    def __init__(self, *args: Any, own_only: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._own: set[str | None] = set()
        self._own_only = own_only

    async def _hear(self, message: str | Pieces) -> None:
        self._check_query()
        text = message if isinstance(message, str) else await self._decoded(message)
        turn_id = uuid.uuid4().hex
        self._own.add(turn_id)  # before the turn has its first event
        try:
            turn = await check_in_turns(TurnBody, {"query": text, "turn_id": turn_id}, self._intake.do)
            await self._engine.query(self._principal, self._session_id, turn.request())
        except PorticoError as error:
            self._own.remove(turn_id)
            told = PlainError(
                type="error",
                session_id=self._session_id,
                error=error.detail,
                code=error.code,
                status=wire.status_of(error),
            )
            await self._tell(told)

    async def _decoded(self, pieces: Pieces) -> str:
        text = Text(memory_for(sum(map(len, pieces))))
        await self._intake.do(decode(pieces, text))
        return text.take()

    def _select(self, events: Sequence[Event]) -> Sequence[Event]:
        if not self._own_only:
            return events
        own = [event for event in events if event.turn_id in self._own]
        self._own.difference_update([event.turn_id for event in own if event.type == "complete"])
        return own

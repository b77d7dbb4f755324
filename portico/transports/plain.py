"""A WebSocket without a subprotocol: every message is a query."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import anyio

from portico.core.errors import PorticoError
from portico.core.events import Event
from portico.core.reader import Reader
from portico.core.requests import TurnView
from portico.core.text import Text, decode, memory_for
from portico.transports import wire
from portico.transports.answer_bodies import PlainError
from portico.transports.conversation import Conversation
from portico.transports.models import TurnBody
from portico.transports.parse import check_in_turns
from portico.transports.peer import Pieces


class PlainConversation(Conversation):
    """A conversation in queries. Without ``after`` the client gets the events of its own turns only.

    ``turn_id`` is the id of the turn of the first query that is accepted. So a client that comes back, and sends that
    query again, gets that turn again: all of it, or with ``after`` what it has missed, at least the end.
    """

    def __init__(self, *args: Any, turn_id: str | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._turn_id = turn_id
        self._after: int | None = None
        self._own: set[str | None] = set()
        self._asked = anyio.Event()

    async def _begin(self, after: int | None) -> Reader:
        self._after = after
        return await super()._begin(after)

    async def _speak(self, reader: Reader) -> None:
        if self._turn_id is not None and self._after is None:
            # The turn may be over, and its session closed, where `reader` would end at once.
            with self._streams.waiting():
                await self._asked.wait()
        await super()._speak(reader)

    async def _hear(self, message: str | Pieces) -> None:
        self._check_query()
        text = message if isinstance(message, str) else await self._decoded(message)
        turn_id = self._turn_id or uuid.uuid4().hex
        if self._turn_id is None:
            self._own.add(turn_id)  # before the turn has its first event
        try:
            turn = await check_in_turns(TurnBody, {"query": text, "turn_id": turn_id}, self._intake.do)
            accepted = await self._engine.query(self._principal, self._session_id, turn.request())
            if self._turn_id is not None:
                await self._show(accepted)
        except PorticoError as error:
            self._own.discard(turn_id)
            told = PlainError(
                type="error",
                session_id=self._session_id,
                error=error.detail,
                code=error.code,
                status=wire.status_of(error),
            )
            await self._tell(told)
        self._asked.set()

    async def _show(self, turn: TurnView) -> None:
        """Send a turn that may have begun long ago: all of it, or its end if that is not after ``after``."""
        self._turn_id = None
        if self._after is None:
            reader = await self._engine.reader(self._principal, self._session_id, after=turn.first_seq - 1)
            self._own.add(turn.turn_id)  # not before the switch, so that no later event comes before its first
            self._asked.set()
            await self._switch(reader, None)
        elif turn.last_seq is not None and turn.last_seq <= self._after:
            end = await self._engine.reader(
                self._principal, self._session_id, after=turn.last_seq - 1, turn_id=turn.turn_id
            )
            await self._pass_on(await end.read(), end)

    async def _decoded(self, pieces: Pieces) -> str:
        text = Text(memory_for(sum(map(len, pieces))))
        await self._intake.do(decode(pieces, text))
        return text.take()

    def _select(self, events: Sequence[Event]) -> Sequence[Event]:
        if self._after is not None:
            return events
        own = [event for event in events if event.turn_id in self._own or event.type == "gap"]
        self._own.difference_update([event.turn_id for event in own if event.type == "complete"])
        return own

"""An `EventStore` in memory."""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest

from portico.core.errors import Conflict, InvalidRequest, NotFound, SequenceConflict
from portico.core.events import Event, encode_json, first_of
from portico.core.store import LIST_BYTES, READ_BYTES, SessionRecord, TurnSpan


@dataclass(slots=True)
class _History:
    """One session. Nothing is ever dropped from ``events``: sequence number N is at index N - 1."""

    record: SessionRecord
    events: list[Event] = field(default_factory=list)
    turns: dict[str, TurnSpan] = field(default_factory=dict)


class MemoryStore:
    """A store that keeps everything for as long as the process lives."""

    def __init__(self) -> None:
        self._sessions: dict[str, _History] = {}

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def create(self, record: SessionRecord) -> None:
        if record.session_id in self._sessions:
            raise Conflict(f"there is a session {record.session_id!r} already", code="session_exists")
        self._sessions[record.session_id] = _History(record)

    async def get(self, session_id: str) -> SessionRecord | None:
        history = self._sessions.get(session_id)
        return None if history is None else history.record

    async def list(
        self, *, owner: str | None, state: str | None, limit: int, cursor: str | None
    ) -> tuple[list[SessionRecord], str | None]:
        before = _decode_cursor(cursor) if cursor is not None else None
        records = (history.record for history in self._sessions.values())
        matching = (
            record
            for record in records
            if (owner is None or record.owner == owner)
            and (state is None or record.state == state)
            and (before is None or _position(record) < before)
        )
        page: list[SessionRecord] = []
        size = 0
        for record in nlargest(limit + 1, matching, key=_position):
            # The only parts of a listed session that may be large.
            size += len(encode_json([dict(record.metadata), *map(dict, record.options.permission_rules)]))
            if page and (len(page) == limit or size > LIST_BYTES):
                return page, _encode_cursor(page[-1])
            page.append(record)
        return page, None

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        history = self._sessions.get(session_id)
        if history is None:
            raise NotFound(f"there is no session {session_id!r}", code="session_not_found")
        end = len(history.events)
        if end != expected_seq:
            raise SequenceConflict(f"the history of {session_id!r} ends at {end}, not at {expected_seq}")
        history.events += events
        for event in events:
            _index(history.turns, event)
        history.record = replace(record or history.record, last_seq=len(history.events))

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        history = self._sessions.get(session_id)
        return first_of(history.events[after : after + limit], max_bytes) if history else ()

    async def turn(self, session_id: str, turn_id: str) -> TurnSpan | None:
        history = self._sessions.get(session_id)
        return history.turns.get(turn_id) if history else None

    async def unfinished(self) -> Sequence[tuple[str, str]]:
        return [
            (session_id, span.turn_id)
            for session_id, history in self._sessions.items()
            for span in history.turns.values()
            if span.last_seq is None
        ]

    async def tidy(self) -> None:
        pass

    async def event(self, session_id: str, seq: int) -> Event | None:
        history = self._sessions.get(session_id)
        return history.events[seq - 1] if history and 1 <= seq <= len(history.events) else None

    async def delete(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)


def _index(turns: dict[str, TurnSpan], event: Event) -> None:
    if event.turn_id is None:
        return
    span = turns.setdefault(event.turn_id, TurnSpan(event.turn_id, event.seq, None))
    if event.type == "complete":
        turns[event.turn_id] = replace(span, last_seq=event.seq)


# A page starts after the last session of the page before it, not at a number: sessions come and go in between.
def _position(record: SessionRecord) -> tuple[str, str]:
    return record.created_at, record.session_id


def _encode_cursor(record: SessionRecord) -> str:
    return urlsafe_b64encode(json.dumps(_position(record)).encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[str, str]:
    try:
        match json.loads(urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))):
            case [str(created_at), str(session_id)]:
                return created_at, session_id
    except (ValueError, RecursionError, binascii.Error):
        pass
    raise InvalidRequest("the cursor is none that this server has given", code="invalid_cursor")

"""What the engine needs of a store, and the record that it keeps of each session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from portico.core.agent import AgentOptions
from portico.core.events import Event
from portico.core.state import State

READ_BYTES = 2 * 1024 * 1024
LIST_BYTES = 256 * 1024
"""Of the records on a page. Decoding and encoding as much takes some milliseconds."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What is known of a session beside its events. Times are RFC 3339 in UTC.

    A store sets ``last_seq`` itself: it is the end of the history, whatever record it was given.

    ``agent_id`` (a UUID) names the agent's own conversation and its folder. ``own_workspace`` says that the server made
    ``cwd``, and may delete it with the session.
    """

    session_id: str
    agent_id: str
    owner: str
    driver: str
    state: State
    cwd: str
    own_workspace: bool
    options: AgentOptions
    created_at: str
    last_active_at: str
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    last_seq: int = 0
    turns: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class TurnSpan:
    """Where a turn stands in the history: the ``seq`` of its ``query``, and of its ``complete`` once it is over."""

    turn_id: str
    first_seq: int
    last_seq: int | None


class EventStore(Protocol):
    """Keeps sessions and their events. Every method is bounded in time by the store itself.

    Raises `StoreFailed` where the medium fails. What `append` returned for is durable, in the store's own sense of it.
    """

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def create(self, record: SessionRecord) -> None:
        """Keep a new session. Raises `Conflict` (``session_exists``) where the id is taken."""

    async def get(self, session_id: str) -> SessionRecord | None: ...

    async def list(
        self, *, owner: str | None, state: str | None, limit: int, cursor: str | None
    ) -> tuple[list[SessionRecord], str | None]:
        """A page of sessions, newest first, and the cursor of the next page, None on the last.

        There are at most ``limit`` on a page, and at least one if there is any. A store should end a page early where
        the records on it take more than `LIST_BYTES`.

        ``owner`` and ``state`` choose exactly, None all. Raises `InvalidRequest` (``invalid_cursor``) for a cursor that
        is none of this store's.
        """

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        """Add events behind ``expected_seq`` and keep ``record``, both or neither.

        Raises `SequenceConflict` where the history does not end at ``expected_seq``, `NotFound` for no such session.
        """

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        """At most ``limit`` events that follow ``after``, without a hole, beginning with the next one that is kept.

        About ``max_bytes`` of them at most (up to 512 KiB and one event more), but at least one if there is any.
        """

    async def turn(self, session_id: str, turn_id: str) -> TurnSpan | None: ...

    async def unfinished(self) -> Sequence[tuple[str, str]]:
        """Session and turn ids of all turns that have no ``complete``, of each session the oldest first."""

    async def event(self, session_id: str, seq: int) -> Event | None: ...

    async def tidy(self) -> None:
        """Do what can wait: retention, packing. Called at the start and then every few minutes; may take its time, in
        small steps that delay nobody."""

    async def delete(self, session_id: str) -> None:
        """Forget a session and its events. Does nothing where there is none."""

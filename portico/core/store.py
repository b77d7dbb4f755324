"""The interface of a store, as the engine uses it, and the record that a store keeps of each session."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from portico.core.agent import AgentOptions
from portico.core.events import Complete, Event
from portico.core.state import State
from portico.core.usage import CostBasis, UsageByModel, add_usage, least_certain

READ_BYTES = 2 * 1024 * 1024
LIST_BYTES = 256 * 1024
"""The size of the records on a page. Decoding and encoding as much takes some milliseconds."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """The data of a session apart from its events. Times are RFC 3339 in UTC.

    A store sets ``last_seq`` itself, to the end of the history; it ignores the value in the record that it receives.

    ``agent_id`` (a UUID) names the agent's own conversation and its folder. If ``own_workspace`` is true, the server
    made ``cwd``, and may delete it with the session. ``tasks`` are those of its agent's process, see `background_work`;
    ``schedules`` are described in the file of this name.
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
    usage_by_model: UsageByModel = field(default_factory=dict)
    cost_usd: float = 0.0
    cost_basis: CostBasis = "reported"
    tasks: tuple[Mapping[str, Any], ...] = ()
    schedules: tuple[Mapping[str, Any], ...] = ()
    budget_usd: float | None = None

    def counting(self, complete: Complete) -> SessionRecord:
        """Return the record with the usage and the cost of one more turn."""
        cost = self.cost_usd + complete["cost_usd"]
        by_model = add_usage(self.usage_by_model, complete.get("usage_by_model", {}))
        return replace(
            self,
            usage=add_usage(self.usage, complete["usage"]),
            usage_by_model=cast(UsageByModel, by_model),
            cost_usd=cost if math.isfinite(cost) else self.cost_usd,
            cost_basis=least_certain((self.cost_basis, complete.get("cost_basis", "reported"))),
        )


@dataclass(frozen=True, slots=True)
class TurnSpan:
    """The range of a turn in the history: the ``seq`` of its ``query``, and of its ``complete`` once it is over."""

    turn_id: str
    first_seq: int
    last_seq: int | None


class EventStore(Protocol):
    """A store of sessions and their events, which bounds the time of every method itself.

    Methods raise `StoreFailed` if the medium fails. Once `append` returns, its events are durable, as the store defines
    durability.
    """

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def create(self, record: SessionRecord) -> None:
        """Store a new session. Raises `Conflict` (``session_exists``) if the id is taken."""

    async def get(self, session_id: str) -> SessionRecord | None: ...

    async def list(
        self, *, owner: str | None, state: str | None, limit: int, cursor: str | None
    ) -> tuple[list[SessionRecord], str | None]:
        """Return a page of sessions, newest first, and the cursor of the next page, None on the last.

        A page has at most ``limit`` sessions, and at least one if there is any. A store should end a page early if the
        records on it take more than `LIST_BYTES`.

        ``owner`` and ``state`` must match exactly; None matches all. Raises `InvalidRequest` (``invalid_cursor``) for a
        cursor that is not from this store.
        """

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        """Add events behind ``expected_seq`` and store ``record``, both or neither.

        Raises `SequenceConflict` if the history does not end at ``expected_seq``, `NotFound` if there is no such
        session.
        """

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        """Return at most ``limit`` events behind ``after``, without a hole, from the first one that still exists.

        They take at most about ``max_bytes`` (up to 512 KiB and one event more), but include at least one event if
        there is any.
        """

    async def turn(self, session_id: str, turn_id: str) -> TurnSpan | None: ...

    async def unfinished(self) -> Sequence[tuple[str, str]]:
        """Return session and turn ids of all turns without a ``complete``, the oldest of each session first."""

    async def event(self, session_id: str, seq: int) -> Event | None: ...

    async def tidy(self) -> None:
        """Do the work that can wait: retention, packing. Called at the start and then every few minutes; it may take
        long, in small steps that delay nobody."""

    async def delete(self, session_id: str) -> None:
        """Delete a session and its events. Do nothing if there is none."""

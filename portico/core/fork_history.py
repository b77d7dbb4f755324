"""The history that a fork begins with: the events of the turns that were over at some turn's end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from portico.core.errors import Conflict, NotFound
from portico.core.events import Event, encode_json
from portico.core.life import Life

PAGE = 500


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """The end of a turn in a history: ``last_seq`` is its ``complete``, and ``turns`` are those that were over then.

    ``callers`` are those that a caller has asked for and not withdrawn, oldest first; ``own_turns`` counts those
    that the agent has begun by itself behind the last of these. ``at_the_end`` tells whether no turn follows.
    """

    last_seq: int
    turns: frozenset[str]
    callers: Sequence[str]
    own_turns: int
    at_the_end: bool


async def find_fork_point(life: Life, turn_id: str | None) -> ForkPoint:
    """Find the end of this turn (None: of the last one that is over).

    Raises `NotFound` (``turn_not_found``) or `Conflict` (``turn_not_over``).
    """
    last_seq: int | None = None
    if turn_id is not None:
        span = await life.turn(turn_id)
        if span is None:
            raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")
        if (last_seq := span.last_seq) is None:
            raise Conflict(f"the turn {turn_id!r} is not over", code="turn_not_over")
    begun: dict[str, bool] = {}  # turn_id -> whether the agent has begun it by itself
    over: dict[str, int] = {}
    withdrawn: set[str] = set()  # the agent never knew of them
    async for page in _pages(life):
        for event in page:
            if event.turn_id is not None and event.type == "query":
                begun[event.turn_id] = b'"principal":null' in event.data
            elif event.turn_id is not None and event.type == "complete":
                over[event.turn_id] = event.seq
                if json.loads(event.data)["stop_reason"] == "withdrawn":
                    withdrawn.add(event.turn_id)
    end = max(over.values(), default=0) if last_seq is None else last_seq
    kept = [turn for turn, seq in over.items() if seq <= end]
    known = [turn for turn in kept if turn not in withdrawn]
    callers = [turn for turn in known if not begun.get(turn, False)]
    behind = known.index(callers[-1]) + 1 if callers else 0
    at_the_end = end == max(over.values(), default=0) and begun.keys() <= over.keys()
    return ForkPoint(end, frozenset(kept), callers, len(known) - behind, at_the_end)


async def copy_history(life: Life, point: ForkPoint, to: Life) -> int:
    """Append the events of the turns of ``point`` to ``to``, which has none yet. Return the ``seq`` of the last one."""
    seq = 0
    async for page in _pages(life):
        kept = [event for event in page if event.turn_id in point.turns and event.seq <= point.last_seq]
        if kept:
            await to.append(
                seq, [_renumbered(event, life.session_id, to.session_id, seq + n) for n, event in enumerate(kept, 1)]
            )
        seq += len(kept)
        if page[-1].seq >= point.last_seq:
            break
    return seq


async def _pages(life: Life) -> AsyncIterator[Sequence[Event]]:
    after = 0
    while events := await life.read(after, PAGE):
        yield events
        after = events[-1].seq


def _renumbered(event: Event, session_id: str, new_id: str, seq: int) -> Event:
    head = encode_json({"type": event.type, "session_id": session_id, "seq": event.seq})[:-1]
    if event.data.startswith(head + b","):
        start = encode_json({"type": event.type, "session_id": new_id, "seq": seq})[:-1]
        return Event(seq, event.type, event.turn_id, start + event.data[len(head) :])
    members: dict[str, Any] = json.loads(event.data)
    return Event(seq, event.type, event.turn_id, encode_json({**members, "session_id": new_id, "seq": seq}))

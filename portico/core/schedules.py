"""The schedules of one session, which are kept in its record, and begin turns at their times."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from cronsim import CronSim, CronSimError

from portico.core.clock import rfc3339, rfc3339_at
from portico.core.journal import Journal
from portico.core.schedule_event import Schedule

GRACE_SECONDS = 30.0
"""The time that a running agent has, from the time of a schedule on, to begin its turn by itself."""

AGAIN_SECONDS = 60.0
MAX_SCHEDULES = 100

Kept = Mapping[str, Any]


class Schedules:
    """The schedules of one session. ``started_at`` is `Seat.started_at`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._silence = False

    def silenced(self) -> bool:
        """Tell, once, whether the turn that begins is that of a removed schedule, so that it must stop at once."""
        silence, self._silence = self._silence, False
        return silence

    @property
    def kept(self) -> tuple[Kept, ...]:
        return self._journal.record.schedules

    def note(self, event: Schedule) -> Schedule | None:
        """Note what the agent says about a schedule, and return the event for clients, or None."""
        if event["state"] == "fired":
            if (found := self._fired(event)) is None:
                return None
            self._silence = bool(found.get("muted"))
            fired = self.fire(found)
            return None if self._silence else fired
        known = self._find(event["schedule_id"])
        others = tuple(kept for kept in self.kept if kept is not known)
        if event["state"] == "removed":
            self._keep(others)
            return None if known is None else _event(known, "removed")
        if len(others) >= MAX_SCHEDULES or parsed(event.get("next_at")) is None:
            return None
        kept = {name: value for name, value in event.items() if name not in ("type", "state")}
        kept = {"recurring": False, **kept, "created_at": rfc3339()}
        self._keep((*others, kept))
        return _event(kept, "set")

    def remove(self, schedule_id: str) -> Schedule | None:
        """Remove a schedule, and return the event that says so; None if there is no such schedule.

        One that the agent still knows of is kept unseen, so that its turn can be told from others, see `muted`.
        """
        known = self._find(schedule_id)
        if known is None or known.get("muted"):
            return None
        rest = tuple(kept for kept in self.kept if kept is not known)
        self._keep((*rest, {**known, "muted": True}))
        return _event(known, "removed")

    def remove_all(self) -> list[Schedule]:
        """Remove all schedules, as the session is over, and return the events that say so."""
        events = [_event(kept, "removed") for kept in self.kept if not kept.get("muted")]
        self._keep(())
        return events

    def fire(self, kept: Kept) -> Schedule:
        """Note that this one's turn begins, and return the event for clients."""
        others = tuple(other for other in self.kept if other is not kept)
        event = _event(kept, "fired")
        del event["next_at"]
        if (following := next_time(kept)) is not None:
            kept = {**kept, "next_at": rfc3339_at(following)}
            others = (*others, kept)
            event["next_at"] = kept["next_at"]
        self._keep(others)
        return event

    def postpone(self, kept: Kept) -> None:
        """Note that this one's agent could not be started: try it again soon."""
        later = {**kept, "next_at": rfc3339_at(time.time() + AGAIN_SECONDS)}
        self._keep((*(other for other in self.kept if other is not kept), later))

    def next_look(self, started_at: float | None) -> float:
        """Return the time (seconds since 1970) when `due` has to be asked again."""
        looks = [_due(kept) + (GRACE_SECONDS if _agents_own(kept, started_at) else 0.0) for kept in self.kept]
        return min(looks, default=math.inf)

    def due(self, started_at: float | None) -> tuple[list[Kept], list[Schedule]]:
        """Return the schedules whose turns the session must begin, and the events of those that are over.

        A running agent begins the turns that it knows of by itself; a wakeup that it has let pass is over.
        """
        begin: list[Kept] = []
        over: list[Schedule] = []
        now = time.time()
        for kept in self.kept:
            own = _agents_own(kept, started_at)
            if _due(kept) + (GRACE_SECONDS if own else 0.0) > now:
                continue
            if not own and not kept.get("muted"):
                begin.append(kept)
            elif kept["recurring"]:
                self.fire(kept)
            else:
                self._keep(tuple(other for other in self.kept if other is not kept))
                if not kept.get("muted"):
                    over.append(_event(kept, "removed"))
        return begin, over

    def _fired(self, event: Schedule) -> Kept | None:
        if event["schedule_id"]:
            return self._find(event["schedule_id"])
        jobs = [kept for kept in self.kept if kept["kind"] == event["kind"]]
        return min(jobs, key=_due, default=None)

    def _find(self, schedule_id: str) -> Kept | None:
        return next((kept for kept in self.kept if kept["schedule_id"] == schedule_id), None)

    def _keep(self, kept: tuple[Kept, ...]) -> None:
        self._journal.record = replace(self._journal.record, schedules=kept)


def parsed(text: Any) -> float | None:
    """Return an RFC 3339 time in seconds since 1970, or None if it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def next_time(kept: Kept) -> float | None:
    """Return the next time of a recurring schedule, or None. An agent may run a job late, each time as much."""
    if not kept["recurring"]:
        return None
    last = datetime.fromtimestamp(_due(kept)).replace(microsecond=0)
    try:
        late = _due(kept) - next(CronSim(kept["cron"], last + timedelta(seconds=1), reverse=True)).timestamp()
        after = max(last, datetime.fromtimestamp(time.time() - late))
        return next(CronSim(kept["cron"], after)).timestamp() + late
    except (CronSimError, StopIteration, KeyError, ValueError, OverflowError):
        return None


def _agents_own(kept: Kept, started_at: float | None) -> bool:
    """Tell whether the running agent begins this one's turn by itself: it has set it, or taken it up again in time."""
    if started_at is None:
        return False
    known_since = parsed(kept["created_at"]) if kept["kind"] == "wakeup" else _due(kept) - 1.0
    return bool(kept.get("durable")) or (known_since is not None and started_at <= known_since)


def _due(kept: Kept) -> float:
    return parsed(kept.get("next_at")) or 0.0


def _event(kept: Kept, state: str) -> Schedule:
    members = {name: value for name, value in kept.items() if name not in ("created_at", "muted")}
    return cast(Schedule, {"type": "schedule", **members, "state": state})

"""The engine: all sessions, of every owner and over every transport."""

from __future__ import annotations

from collections import Counter

import anyio
from anyio.abc import TaskGroup, TaskStatus

from portico.core.lifecycle import keep_tidy, run_parts
from portico.core.occupancy import Occupancy
from portico.core.pool import Pool
from portico.core.reading_calls import ReadingCalls
from portico.core.recovery import recover
from portico.core.requests import NewSession
from portico.core.session_calls import SessionCalls
from portico.core.turn_calls import TurnCalls
from portico.core.work_calls import WorkCalls

STOP_SECONDS = 15.0
"""The time that interrupted turns may take to end."""


class Engine(SessionCalls, TurnCalls, WorkCalls, ReadingCalls):
    """All sessions of this server. Every method takes the caller first, and treats another owner's session as unknown.

    The owner is checked once, in `_allow`, which returns the session's `Life`. Whatever a method does after a wait goes
    through that life: it reaches the session that the caller was allowed to use, or fails (`SessionGone`).

    All methods raise errors of `portico.core.errors` only.

    Calls are noted in ``audit`` here, not in the transports, so that each call is noted once, over any transport.
    """

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own store, drivers and sessions until cancelled; then stop every agent first, and the rest after that."""
        await run_parts(
            self._folders, self._store, self._drivers, self._observations, self._begin, task_status=task_status
        )

    async def _begin(self, tasks: TaskGroup) -> None:
        self._starter.tasks = tasks
        async for record in recover(self._store, self._accounts):
            if record.driver in self._drivers:
                self._starter.start(self._lives.of(record.session_id), record)
        driver = self._drivers.default
        if self._policy.pool_size and "claim" in driver.capabilities:
            self._creation.pool = Pool(
                driver,
                self._policy.options(NewSession(), self._default_model),
                self._policy.pool_size,
                slots=self._slots,
                folders=self._folders,
            )
            tasks.start_soon(self._creation.pool.run)
        tasks.start_soon(keep_tidy, self._store)
        tasks.start_soon(self._alarms.run)

    async def drain(self, seconds: float) -> None:
        """Refuse new work, give running turns ``seconds``, interrupt the rest, and end all readers."""
        self.draining = True
        with anyio.move_on_after(seconds):
            await self._quiet()
        for session in list(self._lives.live.values()):
            await session.stop_turns()
        with anyio.move_on_after(STOP_SECONDS):
            await self._quiet()
        for feed in self._lives.feeds:
            feed.end()

    async def _quiet(self) -> None:
        for session in list(self._lives.live.values()):
            await session.quiet()

    def hurry(self) -> None:
        """Kill agents from now on, rather than ask them to stop."""
        for session in self._lives.live.values():
            session.hurry()

    def readiness(self) -> list[str]:
        """Return the reasons why new work would be refused now; empty if it would be accepted."""
        reasons = ["draining"] if self.draining else []
        reasons += [fault for fault in (self._check(), self._folders.fault()) if fault is not None]
        reasons += [f"{part}: {reason}" for part, look in self.unready.items() if (reason := look()) is not None]
        return reasons + sorted({session.trouble for session in self._lives.live.values() if session.trouble})

    async def check_driver(self, name: str | None = None) -> None:
        """Raise `AgentUnavailable` if this driver (None: the default) can't start an agent, and note it in `failed`."""
        await self._drivers.check(name)

    def occupancy(self) -> Occupancy:
        sessions, pool = list(self._lives.live.values()), self._creation.pool
        return Occupancy(
            sessions=Counter(str(session.record.state) for session in sessions),
            processes=self._slots.taken,
            process_limit=self._slots.limit,
            process_queue=self._slots.waiting,
            pooled=pool.ready if pool else 0,
            turn_queue=sum(session.queued for session in sessions),
            permissions=sum(len(session.permissions.pending) for session in sessions),
            observers={observation.name: observation.behind for observation in self._observations},
        )

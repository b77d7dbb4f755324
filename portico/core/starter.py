"""The start of sessions' tasks: each session in use has one, within the limits."""

from __future__ import annotations

from anyio.abc import TaskGroup

from portico.core.accounts import Accounts
from portico.core.alarms import Alarms
from portico.core.drivers import Drivers
from portico.core.errors import Conflict, Exhausted, SessionNotFound, Unavailable
from portico.core.folders import Folders
from portico.core.life import Life
from portico.core.lives import Lives
from portico.core.policy import Policy
from portico.core.pool import Pooled
from portico.core.seat import Seat
from portico.core.session import Session
from portico.core.slots import ProcessSlots
from portico.core.state import State
from portico.core.store import SessionRecord


class SessionStarter:
    """The starter of sessions' tasks. ``tasks`` is None while the engine does not run. ``opening`` has the sessions
    that are being created, with their owners: they count against the limits.
    """

    def __init__(
        self,
        lives: Lives,
        drivers: Drivers,
        policy: Policy,
        *,
        slots: ProcessSlots,
        folders: Folders,
        accounts: Accounts,
    ) -> None:
        self.tasks: TaskGroup | None = None
        self.alarms: Alarms | None = None
        self.opening: dict[str, str] = {}
        self._lives = lives
        self._drivers = drivers
        self._policy = policy
        self._slots = slots
        self._folders = folders
        self._accounts = accounts

    async def open(self, life: Life) -> Session:
        """Return the live session; start it if it is dormant. Raises `Conflict` (``session_closed``) or `Exhausted`."""
        if session := self._lives.session(life):
            return session
        record = await stored(life)
        if session := self._lives.session(life):
            return session
        if record.state in (State.CLOSED, State.FAILED):
            raise Conflict(f"the session is {record.state}", code="session_closed")
        self.refuse_too_many(record.owner)
        return self.start(life, record)

    def start(self, life: Life, record: SessionRecord, pooled: Pooled | None = None) -> Session:
        """Give the session a task; ``pooled`` becomes its agent. Raises `Unavailable` (``not_running``)."""
        if self.tasks is None:
            raise Unavailable("the engine is not running", code="not_running")
        seat = Seat(self._drivers.of(record), self._slots, self._folders, wait=self._policy.process_wait)
        if pooled is not None:
            seat.adopt(pooled)
        session = self._lives.live[life.session_id] = Session(
            record,
            feed=self._lives.feed(life, record),
            seat=seat,
            slots=self._slots,
            folder=self._folders.agent(record.agent_id),
            policy=self._policy,
            accounts=self._accounts,
        )
        self.tasks.start_soon(self._keep, session, name=f"session {record.session_id}")
        return session

    async def _keep(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            if self._lives.live.get(session.record.session_id) is session:
                del self._lives.live[session.record.session_id]
            if self.alarms is not None:
                self.alarms.note(session.record)
            if session.record.state is State.FAILED:  # its feed has ended; the next caller gets a new one
                self._lives.drop_feed(session.life)

    def refuse_too_many(self, owner: str) -> None:
        """Raise `Exhausted` (``too_many_sessions``) if ``owner`` may not have another session open."""
        if len(self._lives.live) + len(self.opening) >= self._policy.max_sessions:
            raise Exhausted(
                f"{self._policy.max_sessions} sessions are open, which is the limit (max_sessions)",
                code="too_many_sessions",
                retry_after=30,
            )
        limit = self._policy.max_sessions_per_principal
        if limit is not None and self._count_sessions(owner) >= limit:
            raise Exhausted(
                f"{limit} sessions of {owner} are open, which is the limit (max_sessions_per_principal)",
                code="too_many_sessions",
                retry_after=30,
            )

    def _count_sessions(self, owner: str) -> int:
        live = (session.record.owner for session in self._lives.live.values())
        return sum(name == owner for name in (*live, *self.opening.values()))


async def stored(life: Life) -> SessionRecord:
    """Return the record of a session that is not live. Raises `SessionNotFound`."""
    record = await life.record()
    if record is None:
        raise SessionNotFound(life.session_id)
    return record

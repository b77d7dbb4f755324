"""The reception of calls to the engine: each call first finds the session that its caller may use, or is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from portico.core.accounts import Accounts, NoAccounts
from portico.core.agent import AgentDriver
from portico.core.alarms import Alarms
from portico.core.audit import Audit, NoAudit
from portico.core.creation import SessionCreation
from portico.core.drivers import Drivers
from portico.core.errors import Conflict, NotAllowed, SessionGone, SessionNotFound, Unavailable
from portico.core.folders import Folders
from portico.core.life import Life
from portico.core.lives import Lives
from portico.core.model_lists import ModelLists
from portico.core.observer import Observations, Observer
from portico.core.policy import Policy
from portico.core.principal import Principal
from portico.core.quota import TurnRate
from portico.core.requests import SessionView, session_view
from portico.core.session import Session
from portico.core.slots import ProcessSlots
from portico.core.starter import SessionStarter
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord
from portico.core.turn_intake import Retired

T = TypeVar("T")


class Reception:
    """The parts of an engine, and the check of the owner with which every call begins. `Engine` is made of its
    subclasses, each with the calls of one kind.
    """

    def __init__(
        self,
        *,
        store: EventStore,
        drivers: Mapping[str, AgentDriver],
        default_driver: str,
        default_model: str | None,
        policy: Policy,
        observers: Mapping[str, Observer] | None = None,
        check: Callable[[], str | None] = lambda: None,
        audit: Audit | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        """``check`` returns at once, in words, why the data folder is no longer usable, or None.

        The attribute ``failed`` lists parts that failed while the rest works. ``unready`` has a function for each part
        without which callers don't get here, which says why, or None. Parts outside the engine may add to both.
        """
        self.audit = audit or NoAudit()
        self.draining = False
        self.failed: dict[str, str] = {}
        self.unready: dict[str, Callable[[], str | None]] = {}
        self._check = check
        self._store = store
        self._drivers = Drivers(drivers, default_driver, self.failed)
        self._default_model = default_model
        self._policy = policy
        self._folders = Folders(
            policy.data_dir, policy.workspace_roots, policy.files, private=policy.private_workspaces
        )
        self._slots = ProcessSlots(policy.max_processes)
        self._observations = Observations(observers or {}, self._observed)
        self._lives = Lives(store, self._observations.note)
        self._accounts = accounts or NoAccounts()
        self._starter = SessionStarter(
            self._lives, self._drivers, policy, slots=self._slots, folders=self._folders, accounts=self._accounts
        )
        self._alarms = self._starter.alarms = Alarms(store, self._open_at_its_time)
        self._creation = SessionCreation(
            store,
            self._lives,
            self._drivers,
            self._starter,
            policy,
            default_model=default_model,
            slots=self._slots,
            folders=self._folders,
        )
        self._models = ModelLists(self._slots, self._folders)
        self._rate = TurnRate(policy.max_turns_per_minute)

    async def _allow(self, principal: Principal, session_id: str) -> tuple[Life, SessionRecord]:
        """Return the session that has this id now, if the caller may use it. Raises `SessionNotFound`."""
        life = self._lives.of(session_id)
        try:
            record = await self._lives.record(life)
        except SessionGone:  # it was purged before its owner was known
            raise SessionNotFound(session_id) from None
        if record is None or session_id in self._creation.unborn:
            raise SessionNotFound(session_id)
        if principal.bound_to not in (None, record.agent_id):
            raise SessionGone(session_id)
        if not principal.may_see(record.owner):
            self.audit.note("session.access", SessionNotFound.code, principal, session_id=session_id)
            raise SessionNotFound(session_id)
        return life, record

    async def _reach(
        self, life: Life, act: Callable[[Session], Awaitable[T]], admit: Callable[[], None] | None = None
    ) -> T:
        """Return what ``act`` does with the live session, which is opened if it is dormant.

        Do so again, if it raises `Retired`: the session went dormant at that moment. ``admit`` may refuse each time.
        """
        while True:
            if admit is not None:
                admit()
            session = await self._starter.open(life)
            try:
                return await act(session)
            except Retired:
                await session.finished.wait()

    async def _observed(self, life: Life) -> SessionView | None:
        try:
            record = await self._lives.record(life)
        except SessionGone:
            return None
        return self._view(record) if record else None

    def _view(self, record: SessionRecord) -> SessionView:
        session = self._lives.live.get(record.session_id)
        return session.view() if session and session.record.agent_id == record.agent_id else session_view(record)

    async def _open_at_its_time(self, session_id: str) -> None:
        if not self.draining:
            await self._starter.open(self._lives.of(session_id))

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise Unavailable("the server is stopping", code="draining")


def refuse_closed(record: SessionRecord) -> SessionRecord:
    """Return the record. Raises `Conflict` (``session_closed``)."""
    if record.state is State.CLOSED:
        raise Conflict("the session is closed", code="session_closed")
    return record


def refuse_bound(principal: Principal) -> None:
    """Raise `NotAllowed` if the caller is bound to one session."""
    if principal.bound_to is not None:
        raise NotAllowed("this is bound to one session, and asks for something else")

"""The engine as transports use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from portico.core.abilities import CommandInfo, ContextUse, McpServer, ModelInfo, Rewind
from portico.core.agent import Decision
from portico.core.audit import Audit
from portico.core.events import Event
from portico.core.occupancy import Occupancy
from portico.core.principal import Principal
from portico.core.reader import Reader
from portico.core.requests import NewFork, NewSession, NewTurn, SessionChanges, SessionView, TurnView


class Sessions(Protocol):
    """All sessions of all owners, wherever they run. `Engine` documents each method and its errors.

    Every layer between the transports and an engine implements this protocol.
    """

    @property
    def audit(self) -> Audit:
        """The audit, for requests that a transport refuses before it calls any of these methods."""

    @property
    def draining(self) -> bool:
        """True if new work is refused, because the server stops."""

    @property
    def failed(self) -> dict[str, str]:
        """The parts that failed while the rest still works, each with the reason in words."""

    @property
    def unready(self) -> dict[str, Callable[[], str | None]]:
        """The parts without which callers don't get here: a function for each, which says why, or None."""

    def readiness(self) -> list[str]: ...

    def occupancy(self) -> Occupancy: ...

    async def create(self, principal: Principal, request: NewSession) -> SessionView: ...

    async def fork(self, principal: Principal, session_id: str, request: NewFork) -> SessionView: ...

    async def sessions(
        self, principal: Principal, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[SessionView], str | None]: ...

    async def session(self, principal: Principal, session_id: str) -> SessionView: ...

    async def bind(self, principal: Principal, session_id: str) -> Principal: ...

    async def identity(self, principal: Principal, session_id: str) -> str: ...

    async def change(self, principal: Principal, session_id: str, changes: SessionChanges) -> SessionView: ...

    async def close(self, principal: Principal, session_id: str, *, purge: bool = False) -> None: ...

    async def query(self, principal: Principal, session_id: str, request: NewTurn) -> TurnView: ...

    async def withdraw(self, principal: Principal, session_id: str, turn_id: str) -> None: ...

    async def interrupt(self, principal: Principal, session_id: str) -> None: ...

    async def answer(self, principal: Principal, session_id: str, request_id: str, decision: Decision) -> None: ...

    async def context(self, principal: Principal, session_id: str) -> ContextUse: ...

    async def commands(self, principal: Principal, session_id: str) -> Sequence[CommandInfo]: ...

    async def mcp(self, principal: Principal, session_id: str) -> Sequence[McpServer]: ...

    async def stop_task(self, principal: Principal, session_id: str, task_id: str) -> None: ...

    async def remove_schedule(self, principal: Principal, session_id: str, schedule_id: str) -> None: ...

    async def rewind(self, principal: Principal, session_id: str, turn_id: str, *, dry_run: bool = False) -> Rewind: ...

    async def models(self, principal: Principal, driver: str | None = None) -> tuple[str, Sequence[ModelInfo]]: ...

    async def pending(self, principal: Principal, session_id: str) -> Sequence[Event]: ...

    async def reader(
        self, principal: Principal, session_id: str, *, after: int = 0, turn_id: str | None = None
    ) -> Reader: ...

    async def resume(
        self, principal: Principal, session_id: str, last_seq: int, *, turn_id: str | None = None
    ) -> Reader | None: ...

    async def event(self, principal: Principal, session_id: str, seq: int) -> Event: ...

    async def history(
        self, principal: Principal, session_id: str, *, after: int, limit: int, subagents: bool = True
    ) -> tuple[Sequence[Event], bool]: ...

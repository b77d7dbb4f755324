"""The calls that a session passes to its agent beside turns: bounded in time and number, also while a turn runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from portico.core.agent import Agent
from portico.core.errors import AgentFailed, AgentUnavailable, Conflict, Exhausted, PorticoError, Unavailable
from portico.core.seat import Seat
from portico.core.state import Wishes
from portico.core.turn_intake import Retired
from portico.core.wakeup import Wakeup

CALL_SECONDS = 10.0
"""The longest time that a caller waits for the answer, the start of a process included."""

MAX_CALLS = 8
"""The number of calls of one session that may be under way."""

log = logging.getLogger("portico.session")


class AgentCall:
    """A call of the agent's method ``ability``. `done` is set once it has a `result`."""

    def __init__(self, ability: str, arguments: Mapping[str, Any], *, alone: bool) -> None:
        self.alone = alone
        self.done = anyio.Event()
        self._ability = ability
        self._arguments = arguments
        self._scope = anyio.CancelScope()
        self._answer: Any = None
        self._error: PorticoError | None = None

    def result(self) -> Any:
        """Return the agent's answer. Raises the error with which the call ended."""
        if self._error is not None:
            raise self._error
        return self._answer

    def fail(self, error: PorticoError) -> None:
        self._error = error
        self.done.set()

    def abandon(self) -> None:
        """End the call: nobody waits for it any more."""
        self._scope.cancel()
        if not self.done.is_set():
            self.fail(Unavailable("the agent is busy; try again", code="agent_busy"))

    async def carry_out(self, agent: Agent) -> None:
        """Call the agent. Only cancellation of the caller is raised."""
        try:
            with self._scope:
                self._answer = await getattr(agent, self._ability)(**self._arguments)
        except (AgentFailed, AgentUnavailable) as failure:
            self._error = Unavailable(failure.detail, code="agent_unavailable")
        except PorticoError as error:
            self._error = error
        except Exception:
            log.exception("the call of %s failed", self._ability)
            self._error = PorticoError("a fault of the server; its log says more")
        except BaseException:
            self._error = _stopped()
            raise
        finally:
            self.done.set()


class Calls:
    """The calls of one session. Any task may `ask`; everything else is for the session's own task.

    A call whose session has an agent begins at once. Otherwise it sets the wish ``call``, and the session starts an
    agent for it. So does a call that must be ``alone``: it begins between two turns.
    """

    def __init__(self, seat: Seat, wishes: Wishes, wakeup: Wakeup) -> None:
        self.starting = anyio.CancelScope()
        self._seat = seat
        self._wishes = wishes
        self._wakeup = wakeup
        self._open: list[AgentCall] = []
        self._waiting: list[AgentCall] = []
        self._tasks: TaskGroup | None = None
        self._over = False

    async def ask(self, ability: str, arguments: Mapping[str, Any], *, alone: bool = False) -> Any:
        """Have the agent's method ``ability`` called, and return its answer.

        Raises `Exhausted` (``too_many_calls``), `Unavailable` (``agent_busy`` after `CALL_SECONDS`,
        ``agent_unavailable``), `Conflict` (``session_closed``), `Retired`, and what the agent raises.
        """
        if self._wishes.retired:
            raise Retired
        if self._wishes.close or self._over:
            raise Conflict("the session is closed", code="session_closed")
        if len(self._open) >= MAX_CALLS:
            raise Exhausted(f"{MAX_CALLS} calls of this session are under way", code="too_many_calls", retry_after=1)
        call = AgentCall(ability, arguments, alone=alone)
        self._open.append(call)
        try:
            self._waiting.append(call)
            if alone or self._seat.ready is None:
                self._wishes.call = True
                self._wakeup.set()
            else:
                self.begin(self._seat.ready)
            with anyio.move_on_after(CALL_SECONDS):
                await call.done.wait()
        finally:
            call.abandon()
            self._open.remove(call)
            if call in self._waiting:
                self._waiting.remove(call)
        return call.result()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Own the calls inside the block; its end ends those that are left."""
        async with anyio.create_task_group() as self._tasks:
            try:
                yield
            finally:
                self._tasks.cancel_scope.cancel()
                self._over = True
                self.refuse(Conflict("the session is closed", code="session_closed") if self._wishes.close else None)

    async def pass_on(self, start: Callable[[anyio.CancelScope], Awaitable[Agent]]) -> bool:
        """Begin the calls that wait, with the agent from ``start``, and tell whether there was one.

        Return once those that must be alone are over. ``start`` may be cancelled with `starting`.
        """
        asked = bool(self._waiting)
        while self._waiting and not self._wishes.stop:
            self.starting = anyio.CancelScope(deadline=anyio.current_time() + CALL_SECONDS)
            try:
                agent = await start(self.starting)
            except PorticoError as failure:
                self.refuse(failure)
                break
            for call in [call for call in self._waiting if call.alone]:
                self._waiting.remove(call)
                await call.carry_out(agent)
            self.begin(agent)
        self.refuse()
        return asked

    def refuse(self, error: PorticoError | None = None) -> None:
        """End the calls that wait with ``error``, or else with the reason that the server stops."""
        while self._waiting:
            self._waiting.pop().fail(error or _stopped())

    def begin(self, agent: Agent) -> None:
        """Begin the calls that wait, but for those that must be alone."""
        ready = [call for call in self._waiting if not call.alone]
        self._waiting = [call for call in self._waiting if call.alone]
        for call in ready:
            if self._tasks is None:
                call.fail(_stopped())
            else:
                self._tasks.start_soon(call.carry_out, agent)


def _stopped() -> Unavailable:
    return Unavailable("the agent was stopped meanwhile; try again", code="agent_unavailable")

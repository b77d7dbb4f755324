"""One running turn: it records the agent's events in the history, and passes answers and messages to the agent."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, cast

import anyio

from portico.core.abilities import AgentAbilities, LateAnswer
from portico.core.agent import Agent, AgentOptions, Decision, OwnTurn, Turn
from portico.core.errors import AgentFailed, AgentUnavailable, InvalidRequest, PorticoError, StoreFailed
from portico.core.events import AgentEvent, Complete, ErrorEvent, EventBody, unused
from portico.core.flaws import flaw
from portico.core.inbox import Inbox
from portico.core.pause import Pause, Process
from portico.core.permissions import Permissions
from portico.core.settling import Streamed
from portico.core.state import State
from portico.core.stranger import strangers
from portico.core.sums import summed
from portico.core.turn_history import History
from portico.core.wakeup import Wakeup

INTERRUPT_GRACE = 10.0
"""The seconds that an interrupted agent has to end its turn before it is stopped."""

RETRY_SECONDS = 1.0
"""The pause before an expired permission request is denied again, after the store failed."""

MAX_CORRECTIONS = 5
"""The number of times that an agent may change to a forbidden permission mode in one turn before it is stopped."""

log = logging.getLogger("portico.session")


class TurnRun:
    """The run of ``turn``, from its first event to its `Complete`, which `run` returns but does not write.

    The run first waits for its agent (`starting`), which `begin` passes to it. `interrupt`, `steer` and `decide` may be
    called from any task, and never wait for the agent. The turn can be steered while it is ``live``: from `begin` to
    `end`.
    """

    def __init__(
        self,
        turn: Turn | OwnTurn,
        turn_id: str,
        *,
        history: History,
        process: Process,
        permissions: Permissions,
        timeout: float,
        can_interrupt: bool = True,
        can_set_mode: bool = True,
        can_pause: bool = False,
    ) -> None:
        self.turn_id = turn_id
        self.starting = anyio.CancelScope()
        self.live = False
        self.own = isinstance(turn, OwnTurn)
        self._agent: Agent  # from `begin` on
        self.turn = turn
        self._history = history
        self._pause = Pause(permissions, process, possible=can_pause)
        self._permissions = permissions
        self._timeout = timeout
        self._deadline: float | None = None
        self._asked_at: float | None = None  # since when a question has waited, while which the time limit stands still
        self._inbox = Inbox()
        self._streamed = Streamed()
        self._wakeup = Wakeup()
        self._decisions: list[tuple[str, Decision]] = []
        self._steers: list[Turn] = []  # messages not yet handed to the agent
        self._steered: list[Turn] = []  # those above and those handed over, until their own turns are over
        self._stop_reason: str | None = None
        self._agent_interrupted = False
        self._stopped = False
        self._can_interrupt = can_interrupt
        self._can_set_mode = can_set_mode
        self._astray: str | None = None  # the agent's permission mode, if it is not allowed
        self._correction: AgentOptions | None = None
        self._corrections = 0
        self._fault: AgentFailed | None = None
        self._pumping = anyio.CancelScope()
        self._refusal: InvalidRequest | None = None
        self.failure: AgentFailed | AgentUnavailable | None = None

    @property
    def interrupted(self) -> bool:
        """Tell whether somebody has asked the turn to stop."""
        return self._stop_reason is not None

    @property
    def astray(self) -> bool:
        """Tell whether the agent is in a permission mode that is not allowed."""
        return self._astray is not None

    def begin(self, agent: Agent) -> None:
        """Start the turn's time limit, and use ``agent`` for it."""
        self._agent = agent
        self._deadline = time.monotonic() + self._timeout
        self.live = True

    def end(self) -> Sequence[Turn]:
        """Mark the turn as over, and return the messages that it has not taken up."""
        self.live = False
        return self._steered

    def interrupt(self, stop_reason: str = "interrupted") -> None:
        """Stop the turn; its `Complete` will have this ``stop_reason``. The first call decides."""
        self._stop_reason = self._stop_reason or stop_reason
        if not self.live:
            self.starting.cancel()
        self._wakeup.set()

    def give_up_process(self) -> None:
        """Do without the process, as soon as and as long as the turn only waits for a person."""
        self._pause.wanted = True
        self._wakeup.set()

    def look(self) -> None:
        """Look whether a request has expired: the clock may have jumped."""
        self._wakeup.set()

    def decide(self, request_id: str, decision: Decision) -> None:
        """Pass the answer to a request, which is already resolved, on to the agent."""
        self._decisions.append((request_id, decision))
        self._wakeup.set()

    def steer(self, turn: Turn) -> None:
        """Hand ``turn`` to the agent, which takes it up in the running turn."""
        self._steered.append(turn)
        self._steers.append(turn)
        self._wakeup.set()

    async def run(self) -> tuple[list[EventBody], Complete]:
        """Run the turn. Return its last events and its `Complete`, for the caller to write with its change of state.

        Raises `StoreFailed`.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._pump)
                tasks.start_soon(self._control)
                last = await self._record()
                tasks.cancel_scope.cancel()
        except ExceptionGroup as group:
            failed, others = group.split(StoreFailed)
            if others or failed is None:
                raise
            raise _first(failed) from None
        return last

    async def _pump(self) -> None:
        try:
            with self._pumping, strangers():
                turn: Turn | OwnTurn | LateAnswer | None = self.turn
                while turn is not None:
                    try:
                        await self._hear(turn)
                    except (AgentFailed, AgentUnavailable):
                        if self._pause.request is None:
                            raise
                    turn = await self._go_on()
        except StoreFailed:
            raise
        except (AgentFailed, AgentUnavailable) as failure:
            self.failure = failure
        except InvalidRequest as refusal:
            self._refusal = refusal
        except Exception:
            log.exception("the driver failed in turn %s", self.turn_id)
            self.failure = AgentFailed("the driver failed; the server's log says more", code="driver_failed")
        finally:
            self._inbox.close()

    async def _hear(self, turn: Turn | OwnTurn | LateAnswer) -> None:
        agent = self._agent
        heard = cast(AgentAbilities, agent).go_on(turn) if isinstance(turn, LateAnswer) else agent.run(turn)
        async with aclosing(cast(Any, heard)) as events:
            async for event in events:
                if self._pause.request is not None:
                    return  # the agent is being stopped
                if (fault := flaw(event)) is not None:
                    raise AgentFailed(f"the driver has said what it must not: {fault}", code="driver_failed")
                await self._inbox.put(event)
                if event["type"] == "complete":
                    return

    async def _go_on(self) -> LateAnswer | None:
        """Wait for the answer of a paused turn, and for an agent that goes on with it; None if the turn is over."""
        if self._pause.request is None:
            return None
        if (over := await self._pause.over()) is None:
            await self._inbox.put(unused(self._stop_reason or "interrupted"))
            return None
        self._agent, request, decision = over
        self._wakeup.set()  # for what had to wait for an agent
        return LateAnswer(self.turn_id, request, decision)

    async def _record(self) -> tuple[list[EventBody], Complete]:
        while batch := await self._inbox.take():
            bodies: list[EventBody] = []
            steered: list[str] = []
            complete: Complete | None = None
            for event in batch:
                if event["type"] == "complete":
                    complete = summed(event, self._pause.used)
                    break
                bodies += self._admit(event)
                if event["type"] == "notice" and event["name"] == "steered":
                    steered.append(event["detail"]["turn_id"])
            waiting = State.WAITING if self._permissions.pending else State.RUNNING
            try:
                await self._history.write(bodies, turn_id=self.turn_id, state=waiting)
            except (TypeError, ValueError, RecursionError) as fault:
                self.failure = AgentFailed(f"the driver has said what is no JSON: {fault}", code="driver_failed")
                break
            for turn_id in steered:
                await self._end_steered(turn_id)
            if complete is not None:
                return self._end([], complete)
        if self._refusal is not None:
            error = ErrorEvent(type="error", error=self._refusal.detail, code=self._refusal.code)
            return self._end([error], unused("error"))
        failure = self.failure = (
            self._fault or self.failure or AgentFailed("the agent ended the turn without a result", code="no_result")
        )
        if self._stop_reason is not None:
            # It was stopped because it did not end its turn in time, so its exit is not an error of its own.
            return self._end([], unused(self._stop_reason, known=False))
        error = ErrorEvent(type="error", error=failure.detail, code=failure.code)
        return self._end([error], unused("error", known=False))

    def _admit(self, event: AgentEvent) -> list[EventBody]:
        if event["type"] == "delta" or event["type"] == "thinking":
            self._streamed.add(event)
            return [event]
        if event["type"] == "message":
            self._streamed.finish(event)
            return [event]
        if event["type"] == "permission_request":
            self._wakeup.set()  # its deadline may be the nearest now
            asked = self._permissions.add(event, time.monotonic())
            return [asked] if self._astray is None else [asked, self._refuse(event["request_id"])]
        if event["type"] == "permission_mode":
            return self._follow_mode(event["permission_mode"])
        if event["type"] == "model":
            return list(self._history.note_model(event["model"]))
        if event["type"] == "task" or event["type"] == "schedule":
            return list(self._history.note(event))
        if event["type"] == "permission_withdrawn":
            self._wakeup.set()  # the time limit may count again
            try:
                return [self._permissions.resolve(event["request_id"], "deny", "interrupted")]
            except PorticoError:
                return []  # it was answered just before
        if event["type"] == "tool_use" or event["type"] == "tool_result":
            self._pause.note(event)
            if self._permissions.pending:
                self._wakeup.set()  # perhaps the agent now waits for nothing else
        return [event]

    def _follow_mode(self, mode: str) -> list[EventBody]:
        bodies, self._correction = self._history.note_mode(mode)
        self._astray = mode if self._correction is not None else None
        self._corrections += self._astray is not None
        self._wakeup.set()
        return list(bodies)

    def _refuse(self, request_id: str) -> EventBody:
        """Deny a request made in a forbidden mode; in an allowed mode the agent might not have asked at all."""
        message = f"The permission mode {self._astray} is not allowed here."
        self._decisions.append((request_id, Decision("deny", message=message)))
        return self._permissions.resolve(request_id, "deny", "not_allowed")

    def _end(self, bodies: list[EventBody], complete: Complete) -> tuple[list[EventBody], Complete]:
        bodies = self._streamed.settle() + bodies
        bodies += self._permissions.withdraw_all("agent_exited" if self.failure else "interrupted")
        if self._stop_reason == "timeout":
            bodies.append(ErrorEvent(type="error", error="the turn took longer than allowed", code="turn_timeout"))
            complete["stop_reason"] = "timeout"
        return bodies, complete

    async def _control(self) -> None:
        while True:
            with anyio.move_on_after(self._seconds_to_next_deadline()):
                await self._wakeup.wait()
            try:
                await self._act(time.monotonic())
            except PorticoError as failure:
                log.info("turn %s: %s", self.turn_id, failure.detail)  # the pump also notices that the agent has ended
                if self._decisions or self._steers or (self._stop_reason is not None and not self._agent_interrupted):
                    self._wakeup.set()  # the rest, behind the call that failed, is still to be done

    def _seconds_to_next_deadline(self) -> float | None:
        limit = self._deadline if self._asked_at is None else None
        deadlines = [d for d in (limit, self._permissions.next_deadline()) if d is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _mind_questions(self, now: float) -> None:
        """Let the time limit stand still while a question waits for a person, unless the turn is to stop."""
        asking = self._permissions.questions and self._stop_reason is None
        if asking and self._asked_at is None:
            self._asked_at = now
        elif not asking and self._asked_at is not None:
            if self._deadline is not None:
                self._deadline += now - self._asked_at
            self._asked_at = None

    async def _act(self, now: float) -> None:
        self._mind_questions(now)
        if self._deadline is not None and self._asked_at is None and now >= self._deadline:
            self._deadline = None
            if self._stopped:
                log.error("turn %s goes on in an agent that was stopped: leaving it", self.turn_id)
                self._pumping.cancel()
                return
            if self._agent_interrupted:
                log.warning("turn %s did not end when interrupted: stopping its agent", self.turn_id)
                await self._stop_agent()
                return
            self.interrupt("timeout")
        if self._correction is not None:
            await self._correct(self._correction)
        for request_id in self._permissions.expired(now):
            resolved = self._permissions.resolve(request_id, "deny", "timeout")
            state = None if self._permissions.pending else State.RUNNING
            try:
                with anyio.CancelScope(shield=True):  # the turn may end meanwhile
                    await self._history.write([resolved], turn_id=self.turn_id, state=state)
            except StoreFailed:
                self._permissions.undo(request_id)
                await anyio.sleep(RETRY_SECONDS)
                raise
            self._decisions.append((request_id, Decision("deny", message="Nobody answered in time.")))
        if self._pause.request is not None:
            if self._decisions or self._stop_reason is not None:
                self._pause.end(None if self._stop_reason is not None else self._decisions.pop(0)[1])
            return
        while self._decisions:
            await self._agent.answer(*self._decisions.pop(0))
        await self._pause.mind(busy=bool(self._steered) or self._stop_reason is not None)
        while self._steers:
            turn = self._steers.pop(0)
            try:
                await self._agent.steer(turn)
            except InvalidRequest as failure:
                with anyio.CancelScope(shield=True):  # or nobody would know whether it is over
                    await self._end_steered(turn.turn_id, failure)
        if self._stop_reason is not None and not self._agent_interrupted:
            self._agent_interrupted = True
            if not self._can_interrupt:
                await self._stop_agent()
                return
            self._deadline = now + INTERRUPT_GRACE
            await self._agent.interrupt()

    async def _end_steered(self, turn_id: str, failure: PorticoError | None = None) -> None:
        """End the turn of a steering message, which the agent has taken up or (``failure``) cannot."""
        if turn_id not in [turn.turn_id for turn in self._steered]:
            return
        complete = unused("steered")
        bodies: list[EventBody] = [complete]
        if failure is not None:
            complete["stop_reason"] = "error"
            bodies.insert(0, ErrorEvent(type="error", error=failure.detail, code=failure.code))
        await self._history.write(bodies, turn_id=turn_id)
        self._steered = [turn for turn in self._steered if turn.turn_id != turn_id]

    async def _correct(self, options: AgentOptions) -> None:
        """Set the agent back to an allowed permission mode; if that fails, stop the agent."""
        self._correction, mode = None, self._astray
        try:
            if self._can_set_mode and self._corrections <= MAX_CORRECTIONS:
                await self._agent.configure(options)
                return
        except AgentFailed as failure:
            log.warning("turn %s: %s", self.turn_id, failure.detail)
        self._fault = AgentFailed(f"the agent does not leave the permission mode {mode}", code="mode_not_allowed")
        await self._stop_agent()

    async def _stop_agent(self) -> None:
        self._stopped = True
        await self._agent.close()
        self._deadline = time.monotonic() + INTERRUPT_GRACE


def _first(group: ExceptionGroup[StoreFailed]) -> StoreFailed:
    error: StoreFailed | ExceptionGroup[StoreFailed] = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error

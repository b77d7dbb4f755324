"""One session: a task that owns its agent and runs its turns one after another."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio

from portico.core.abilities import Rewind
from portico.core.accounts import Accounts
from portico.core.agent import Decision, OwnTurn, Suggestion, Turn
from portico.core.agent_watch import AgentWatch
from portico.core.answers import Judgement, judge
from portico.core.calls import Calls
from portico.core.errors import Conflict, NotFound, StoreFailed
from portico.core.events import EventBody, Notice
from portico.core.feed import Feed
from portico.core.journal import Journal
from portico.core.permissions import Permissions
from portico.core.policy import Policy
from portico.core.principal import Principal
from portico.core.purse import Purse
from portico.core.questions import with_answers
from portico.core.quota import TurnRate
from portico.core.requests import NewTurn, SessionChanges, SessionView, TurnView, session_view
from portico.core.seat import Seat
from portico.core.slots import ProcessSlots
from portico.core.state import State, Step, Wishes, next_step
from portico.core.store import SessionRecord
from portico.core.turn_executor import TurnExecutor
from portico.core.turn_intake import Retired, TurnIntake
from portico.core.wakeup import Broadcast, Wakeup

TAIL_SECONDS = 2.0
"""The time that an idle session keeps its last events in memory, for readers that are just about to read them."""

_STOPPED = "server_stopped", "the server stopped before this turn began"
_CLOSED = "session_closed", "the session was closed before this turn began"

log = logging.getLogger("portico.session")


class Session:
    """The live half of a session: its record, its queue of turns, and its agent if it has one.

    `run` is the session's task, and the only one that waits for the agent. It carries out the steps that `next_step`
    names. Every other method may be called from any task, and waits at most for the store.
    """

    def __init__(
        self,
        record: SessionRecord,
        *,
        feed: Feed,
        seat: Seat,
        slots: ProcessSlots,
        folder: Path,
        policy: Policy,
        accounts: Accounts,
    ) -> None:
        allowed = replace(record, options=policy.still(record.options))
        self.life = feed.life
        self.finished = anyio.Event()
        self.permissions = Permissions(policy.permission_timeout, policy.question_timeout)
        self._wishes = Wishes(
            mode_untold=allowed.options.permission_mode != record.options.permission_mode,
            claim=seat.agent is not None,
        )
        self._seat = seat
        self._slots = slots
        self._policy = policy
        self._idle_since = anyio.current_time()
        self._wakeup = Wakeup()
        self._news = Broadcast()  # a turn is over, or a write that must succeed has failed
        self._calls = Calls(seat, self._wishes, self._wakeup)
        self._journal = Journal(allowed, feed, self.permissions, self._news)
        self._purse = Purse(self._journal, accounts)
        self._turns = TurnIntake(self._journal, self._wishes, seat.driver, policy, wakeup=self._wakeup, news=self._news)
        self._executor = TurnExecutor(
            self,
            self._journal,
            self._wishes,
            self.permissions,
            policy,
            seat=seat,
            slots=slots,
            folder=folder,
            calls=self._calls,
            purse=self._purse,
        )
        self._background = self._executor.background
        self._watch = AgentWatch(seat, self._wishes, self._wakeup)

    # Methods for any task.

    @property
    def record(self) -> SessionRecord:
        return self._journal.record

    @property
    def trouble(self) -> str | None:
        """The reason why a write that must succeed has not succeeded yet."""
        return self._journal.trouble

    @property
    def queued(self) -> int:
        """The number of turns that wait."""
        return len(self._turns.queue)

    def view(self) -> SessionView:
        pending = self.permissions.pending
        return session_view(self.record, last_seq=self._journal.feed.last_seq, queued=self.queued, pending=pending)

    async def quiet(self) -> None:
        """Wait until every turn is complete and no task goes on in the background, or the session is over."""
        while (self._turns.busy or self._background.under_way) and not self.finished.is_set():
            await self._news.wait()

    async def accept(
        self, principal: Principal, request: NewTurn, rate: TurnRate, *, draining: bool = False
    ) -> TurnView:
        """Do as `TurnIntake.accept`."""
        return await self._turns.accept(principal, request, rate, draining=draining)

    async def withdraw(self, turn_id: str) -> None:
        """Do as `TurnIntake.withdraw`."""
        await self._turns.withdraw(turn_id)

    async def change(self, changes: SessionChanges) -> None:
        """Change the record, one call at a time; changes to the agent take effect with the next turn."""
        self._wishes.mode_asked = self._wishes.mode_asked or "permission_mode" in changes.given
        self._wishes.model_asked = self._wishes.model_asked or "model" in changes.given
        await self._journal.change(changes)

    def interrupt(self) -> None:
        """Stop the running turn. Raises `Conflict` (``not_running``)."""
        if not self._turns.busy:
            raise Conflict("no turn is running", code="not_running")
        self._turns.interrupt()

    async def answer(
        self, principal: Principal, request_id: str, decision: Decision, folders: Mapping[str, str] | None = None
    ) -> None:
        """Answer a permission request. ``folders`` may be remembered, see `suggestions.open_folders`.

        Raises as `Permissions.resolve` and `judge`.
        """
        if self._turns.running is not None and request_id in self.permissions.expired(time.monotonic()):
            self._turns.running.look()  # it is denied soon
        self.permissions.check_time(request_id)
        judgement = Judgement(decision)
        if (request := self.permissions.request(request_id)) is not None:
            lasting = "permission_rules" in self._seat.driver.capabilities
            options = self.record.options
            judgement = judge(decision, request, self._policy, options, folders or {}, lasting=lasting)
            decision = with_answers(judgement.decision, request)
        resolved = self.permissions.resolve(request_id, decision.behavior, "answered", principal.name)
        run = self._turns.running
        if run is None or not run.live:
            raise NotFound(f"there is no permission request {request_id!r}", code="request_not_found")
        with anyio.CancelScope(shield=True):
            state = None if self.permissions.pending else State.RUNNING
            bodies = [resolved, *judgement.notices, *self._keep(judgement.rules)]
            try:
                await self._journal.write(bodies, turn_id=run.turn_id, state=state)
            except StoreFailed:
                self.permissions.undo(request_id)
                self._journal.drop_rules([rule["id"] for rule in judgement.rules], "answered")
                raise
            if judgement.rules:
                self._executor.note_rules()
            run.decide(request_id, decision)

    async def call(self, ability: str, arguments: Mapping[str, Any]) -> Any:
        """Do as `Calls.ask`."""
        return await self._calls.ask(ability, arguments)

    async def rewind(self, turn_id: str, dry_run: bool) -> Rewind:
        """Set files back to the start of a turn. Raises as `Calls.ask`, and `Conflict` (``busy``) if a turn runs."""
        if self._turns.busy:
            raise Conflict("a turn is running", code="busy")
        arguments = {"turn_id": turn_id, "dry_run": dry_run}
        rewound = cast(Rewind, await self._calls.ask("rewind", arguments, alone=True))
        if not rewound["dry_run"]:
            detail = {"turn_id": rewound["turn_id"], "files": rewound["files"]}
            with anyio.CancelScope(shield=True):
                await self._journal.write([Notice(type="notice", name="files_rewound", detail=detail)])
        return rewound

    def _keep(self, rules: Sequence[Suggestion]) -> Sequence[EventBody]:
        kept = self.record.options.permission_rules
        return [self._journal.set_rules([*kept, *rules], "answered")] if rules else []

    async def remove_schedule(self, schedule_id: str) -> None:
        """Remove what the agent has scheduled. Raises `NotFound` (``schedule_not_found``), `StoreFailed`, `Retired`."""
        if self._wishes.retired:
            raise Retired
        if (event := self._executor.schedules.remove(schedule_id)) is None:
            raise NotFound(f"there is no schedule {schedule_id!r}", code="schedule_not_found")
        with anyio.CancelScope(shield=True):
            await self._journal.write([event])

    async def closed(self) -> None:
        """Wait until a session ends after `close`. Raises `StoreFailed` if its end cannot be written."""
        while not self.finished.is_set():
            await self._news.wait()  # wakes also after each failed try to write
            if self._wishes.close and self.trouble is not None:
                raise StoreFailed(self.trouble)

    def close(self) -> None:
        """Start to close: stop the running turn, refuse those that wait, stop the agent, then set `finished`."""
        self._wishes.close = True
        self._calls.starting.cancel()
        self._turns.interrupt()
        self._wakeup.set()

    def give_up_process(self) -> None:
        if (run := self._turns.running) is not None and run.live:
            run.give_up_process()
            return
        self._wishes.give_up_process = True
        self._wakeup.set()

    def hurry(self) -> None:
        """Kill the agent from now on, rather than ask it to stop."""
        self._seat.hurry()

    async def stop_turns(self) -> None:
        """Interrupt the running turn and refuse the queued ones, because the server stops.

        The next server process ends the turns whose end cannot be written now.
        """
        self._wishes.stop = True
        self._calls.starting.cancel()
        try:
            await self._turns.refuse_queued(*_STOPPED)
        except StoreFailed as failure:
            log.warning("session %s: %s", self.record.session_id, failure.detail)
        self._turns.interrupt()
        self._wakeup.set()  # for its tasks in the background

    # The session's own task.

    async def run(self) -> None:
        """Run until the session is closed or goes dormant, or the server cancels it."""
        async with self._calls.serving():
            try:
                while (step := self._next_step()) is not Step.LEAVE:
                    await self._carry_out(step)
                    self._wishes.fulfil(step)
            except Exception:
                log.exception("session %s failed", self.record.session_id)
                self._journal.fail()
            finally:
                await self._executor.put_away()
                self.finished.set()
                self._news.tell()

    def _next_step(self) -> Step:
        return next_step(self.record.state, self._wishes, self._turns.queue)

    async def _carry_out(self, step: Step) -> None:
        journal, turns = self._journal, self._turns
        match step:
            case Step.TELL_MODE:
                await journal.persist(journal.write, [journal.mode_change("not_allowed")])
            case Step.CLAIM:
                await self._executor.claim()
            case Step.NOTE_EXIT:
                await self._executor.note_exit(self._wishes.agent_exit or "")
            case Step.NOTE_ASIDE:
                await self._note_aside()
            case Step.FOLLOW:
                await self._follow(OwnTurn(self._wishes.own_turn or ""))
            case Step.RING:
                if not self._wishes.stop:
                    await self._executor.ring(turns.queue)
            case Step.CALL:
                await self._call()
            case Step.CLOSE:
                await self._end()
            case Step.REFUSE:
                await journal.persist(turns.refuse_queued, *_STOPPED)
            case Step.BEGIN:
                turn = turns.queue.take()
                await self._do(turn.turn_id, turn)
            case Step.SETTLE:
                await journal.persist(journal.write, [], state=State.IDLE)
            case Step.HIBERNATE:
                await self._hibernate()
            case Step.RETIRE:
                await self._retire()
            case Step.REST:
                await self._rest()
            case Step.LEAVE:
                pass

    async def _call(self) -> None:
        self._slots.stir(self)
        if await self._calls.pass_on(self._executor.agent):
            self._idle_since = anyio.current_time()

    async def _note_aside(self) -> None:
        await self._executor.note_aside(self._watch.take_aside())
        self._idle_since = anyio.current_time()
        self._news.tell()

    async def _end(self) -> None:
        await self._executor.put_away("closed")
        self._purse.close()
        async with self._turns.accepting:  # callers accepted before the close have their turns in the queue by now
            pass
        await self._journal.persist(self._turns.refuse_queued, *_CLOSED)
        removed = self._executor.schedules.remove_all()
        await self._journal.persist(self._journal.write, removed, state=State.CLOSED)
        self._journal.feed.end()

    async def _rest(self) -> None:
        """Wait until somebody calls, the agent acts by itself, or the session has been idle for too long."""
        if self._wishes.stop and self._background.under_way:
            self._wishes.give_up_process = True
            return
        if self._seat.agent is not None and "resume" in self._seat.driver.capabilities:
            self._slots.rest(self, spared=self._background.under_way)
        timeout = self._idle_since + self._background.patience(self._policy)
        if self.record.state is State.DORMANT:  # the query that woke it was refused
            timeout = min(timeout, self._idle_since + TAIL_SECONDS)
        ring_at = math.inf if self._wishes.stop else self._executor.next_ring()
        until = min(timeout, ring_at, self._background.reports_until)
        with anyio.CancelScope(deadline=min(until, anyio.current_time() + TAIL_SECONDS)) as waiting:
            await self._watch.wait()
        if waiting.cancelled_caught:
            self._journal.feed.forget_tail()
            # If somebody called at that very moment, don't wait again.
            if self._next_step() is Step.REST:
                with anyio.CancelScope(deadline=until) as waiting:
                    await self._watch.wait()
        self._wishes.idle = waiting.cancelled_caught and anyio.current_time() >= timeout
        self._wishes.alarm = waiting.cancelled_caught and anyio.current_time() >= ring_at
        self._news.tell()  # it may be quiet now

    async def _retire(self) -> None:
        await self._executor.put_away("idle")
        async with self._turns.accepting:  # accepted callers have their turns in the queue before we look
            if self._next_step() is not Step.RETIRE:
                return
            try:
                await self._journal.write([], state=State.DORMANT, reason="idle")
                self._wishes.retired = True
            except StoreFailed as failure:
                log.error("session %s: %s", self.record.session_id, failure.detail)
                self._idle_since = anyio.current_time()

    async def _hibernate(self) -> None:
        had_one = self._seat.agent is not None
        await self._executor.put_away("server_stopped" if self._wishes.stop else "process_needed")
        if had_one:
            await self._journal.persist(self._journal.write, [], state=State.HIBERNATED)
        self._news.tell()

    async def _follow(self, own: OwnTurn) -> None:
        self._slots.stir(self)
        turn_id = uuid.uuid4().hex
        await self._journal.write_own_query(turn_id, own.content)
        await self._do(turn_id, own)

    async def _do(self, turn_id: str, turn: Turn | OwnTurn) -> None:
        self._background.turn_begun()
        self._slots.stir(self)
        run = self._turns.running = self._executor.new_run(turn_id, turn)
        began = time.monotonic()
        if self._wishes.interrupts(turn_id):
            run.interrupt()
        try:
            last, complete = await self._executor.execute(run)
            self._turns.queue.put_first(run.end())  # from now on no agent takes a steering message
            complete["duration_ms"] = round((time.monotonic() - began) * 1000)
            complete = self._purse.pay(complete)
            await self._journal.persist(self._write_end, [*last, complete], turn_id)
        finally:
            self._turns.running = None
            self._idle_since = anyio.current_time()
            self._news.tell()

    async def _write_end(self, bodies: list[EventBody], turn_id: str) -> None:
        state = State.IDLE if not self.queued or self._wishes.close else None
        await self._journal.write(bodies, turn_id=turn_id, state=state)

"""The execution of a session's turns: the agent is made ready, runs the turn, and is stopped if it fails."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import anyio

from portico.core.abilities import AgentAbilities
from portico.core.agent import Agent, AgentOptions, AgentSpec, OwnTurn, Turn
from portico.core.background_work import BackgroundWork
from portico.core.calls import Calls
from portico.core.errors import AgentUnavailable, PorticoError
from portico.core.events import Aside, Complete, ErrorEvent, EventBody, Notice, unused
from portico.core.flaws import flaw
from portico.core.journal import Journal
from portico.core.permissions import Permissions
from portico.core.policy import Policy
from portico.core.purse import Purse
from portico.core.queue import TurnQueue
from portico.core.schedules import Kept, Schedules
from portico.core.seat import Seat
from portico.core.slots import Holder, ProcessSlots
from portico.core.state import State, Wishes
from portico.core.suggestions import allowed
from portico.core.turn import TurnRun

log = logging.getLogger("portico.session")


class TurnExecutor:
    """The executor of one session's turns, called by the session's own task and by the turn that it runs."""

    def __init__(
        self,
        holder: Holder,
        journal: Journal,
        wishes: Wishes,
        permissions: Permissions,
        policy: Policy,
        *,
        seat: Seat,
        slots: ProcessSlots,
        folder: Path,
        calls: Calls,
        purse: Purse,
    ) -> None:
        """``holder`` is the session, as `ProcessSlots` knows it."""
        self._holder = holder
        self._journal = journal
        self._wishes = wishes
        self._permissions = permissions
        self._policy = policy
        self._seat = seat
        self._turn: Turn | OwnTurn | None = None  # the one that is executed
        self._slots = slots
        self._folder = folder
        self._calls = calls
        self._purse = purse
        self.background = BackgroundWork(journal)
        self.schedules = Schedules(journal)

    async def claim(self) -> None:
        """Claim the agent that was started ahead, for this session."""
        try:
            await self._seat.prepare(self._spec())
        except PorticoError as failure:
            log.warning("session %s: %s", self._journal.record.session_id, failure.detail)
            await self.put_away()

    def new_run(self, turn_id: str, turn: Turn | OwnTurn) -> TurnRun:
        return TurnRun(
            turn,
            turn_id,
            history=self,
            process=self,
            permissions=self._permissions,
            timeout=self._policy.turn_timeout,
            can_interrupt="interrupt" in self._seat.driver.capabilities,
            can_set_mode="set_permission_mode" in self._seat.driver.capabilities,
            can_pause={"late_answers", "resume"} <= self._seat.driver.capabilities,
        )

    async def execute(self, run: TurnRun) -> tuple[list[EventBody], Complete]:
        """Run the turn, and return its end, whatever happens in it."""
        refused = self._purse.open(run.turn_id)
        if refused is not None and not run.own:
            return [refused], unused("error")
        self._turn = run.turn
        try:
            await self._ready_agent(run)
            if run.interrupted or self._seat.agent is None:
                return [], unused("interrupted")
            run.begin(self._seat.agent)
            if self.schedules.silenced() or refused is not None:
                run.interrupt()
            self._calls.begin(self._seat.agent)
            await self._journal.write([], state=State.RUNNING)
            last, complete = await run.run()
            if run.failure is not None:
                self._wishes.agent_lost = True
                await self.put_away("agent_exited")
            elif run.astray:  # it may go on by itself, which this mode forbids
                await self._call_back()
            if refused is not None and complete["stop_reason"] == "interrupted":
                complete["stop_reason"] = "error"
                last.append(refused)
            return last, complete
        except PorticoError as problem:
            # Also if the store fails: nobody may see events that are not stored, so the agent must not go on.
            error = ErrorEvent(type="error", error=problem.detail, code=problem.code)
        except Exception:
            log.exception("turn %s of session %s failed", run.turn_id, self._journal.record.session_id)
            error = ErrorEvent(type="error", error="a fault of the server; its log says more", code="internal_error")
        finally:
            self._turn = None
        await self.put_away("agent_exited")
        return [*self._permissions.withdraw_all("agent_exited"), error], unused("error", known=not run.live)

    async def _call_back(self) -> None:
        try:
            await self._seat.prepare(self._spec(), surely=True)
        except PorticoError as failure:
            log.warning("session %s: %s", self._journal.record.session_id, failure.detail)
            await self.put_away("mode_not_allowed")

    async def _ready_agent(self, run: TurnRun) -> None:
        wishes = self._wishes
        surely = wishes.options_asked()
        spec = self._spec()
        if self._seat.agent is not None and not self._seat.fits(spec.options):
            await self.put_away("output_schema")
        if self._seat.agent is not None and not run.own and await self._seat.is_out_of_place(spec):
            await self.put_away("workspace_replaced")
        if self._seat.agent is not None:
            await self._seat.prepare(spec, surely=surely)
            return
        await self._start(run.starting, run.turn_id)

    async def agent(self, starting: anyio.CancelScope) -> Agent:
        """Return the session's agent between two turns, for its calls; start it if there is none.

        Raises `AgentUnavailable`, also when ``starting`` is cancelled.
        """
        if self._seat.ready is not None and await self._seat.is_out_of_place(self._spec()):
            await self.put_away("workspace_replaced")
        if self._seat.ready is None:
            await self._start(starting, None)
        if self._seat.agent is None:
            raise AgentUnavailable("no process could be started in time")
        return self._seat.agent

    def rest(self, can_rest: bool) -> None:
        """Do as `Process.rest`."""
        if can_rest:
            self._slots.rest(self._holder, spared=self.background.under_way)
        else:
            self._slots.stir(self._holder)

    async def part(self) -> Complete:
        """Do as `Process.part`."""
        used = unused("interrupted")
        with anyio.CancelScope(shield=True):  # the turn may end meanwhile, but not half of this
            if self._seat.agent is not None:
                try:
                    used = await cast(AgentAbilities, self._seat.agent).part()
                except PorticoError as failure:
                    log.warning("session %s: %s", self._journal.record.session_id, failure.detail)
            await self.put_away()
        bodies = [self._journal.waits_without_process(), *self.background.lost("process_needed")]
        await self._journal.persist(self._journal.write, bodies)
        return used

    async def come_back(self, starting: anyio.CancelScope) -> Agent:
        """Do as `Process.come_back`."""
        await self._start(starting, None)
        if self._seat.agent is None:
            raise AgentUnavailable("the turn was to stop")
        self._calls.begin(self._seat.agent)
        await self._journal.write([], state=State.RUNNING)
        return self._seat.agent

    async def _start(self, scope: anyio.CancelScope, turn_id: str | None) -> None:
        """Start the agent, for this turn or (None) for calls between two turns."""
        wishes, earlier = self._wishes, self._journal.record.turns - (turn_id is not None)
        await self._review_rules(turn_id)
        reason = None if self._slots.free else "no_process"
        await self._journal.write([], state=State.STARTING, reason=reason)
        with scope:
            wishes.options_asked()
            await self._seat.start(self._spec())
        if earlier and "resume" not in self._seat.driver.capabilities:
            notice = Notice(type="notice", name="context_lost", detail="The agent is new, and knows of no turn before.")
            await self._journal.write([notice], turn_id=turn_id)
        elif wishes.agent_lost and not scope.cancel_called:
            notice = Notice(type="notice", name="agent_restarted", detail="The agent had exited; its context is kept.")
            await self._journal.write([notice], turn_id=turn_id)
        wishes.agent_lost = False

    async def write(self, bodies: Sequence[EventBody], *, turn_id: str, state: State | None = None) -> None:
        """Do as `History.write`."""
        await self._journal.write(bodies, turn_id=turn_id, state=state)

    def note(self, event: Aside) -> Sequence[EventBody]:
        """Do as `History.note`."""
        if event["type"] == "task":
            self.background.note(event)
        elif event["type"] == "schedule":
            told = self.schedules.note(event)
            return [] if told is None else [told]
        return [event]

    def note_mode(self, mode: str) -> tuple[Sequence[EventBody], AgentOptions | None]:
        """Do as `History.note_mode`. A mode that a caller set in this turn applies from the next on, in any case."""
        wanted = self._journal.record.options.permission_mode
        if mode not in self._policy.permission_modes:
            detail = {"permission_mode": mode, "back_to": wanted}
            self._seat.note_mode(mode)
            return [Notice(type="notice", name="mode_not_allowed", detail=detail)], self._seat.options(wanted)
        self._seat.note_mode(mode)
        if self._wishes.mode_asked or mode == wanted:
            return [], None
        return [self._journal.set_mode(mode)], None

    async def note_aside(self, event: Aside | None) -> None:
        """Record an event that belongs to no turn."""
        if event is None:
            return
        if (fault := flaw(event)) is not None:
            log.error("session %s: the driver says what it must not: %s", self._journal.record.session_id, fault)
            return
        await self._journal.persist(self._journal.write, self.note(event))

    def next_ring(self) -> float:
        """Return the time, by the clock of anyio, when the session has to look at its schedules."""
        return anyio.current_time() + self.schedules.next_look(self._seat.started_at) - time.time()

    async def ring(self, queue: TurnQueue) -> None:
        """Put the turns of schedules that are due into ``queue``; for those that the agent keeps too, start it."""
        begin, over = self.schedules.due(self._seat.started_at)
        await self._journal.persist(self._journal.write, over)
        for kept in begin:
            if kept.get("durable"):
                await self._wake_agent(kept)
                continue
            turn = Turn(uuid.uuid4().hex, kept["prompt"], commands=True)
            await self._journal.persist(self._journal.write, [self.schedules.fire(kept)])
            await self._journal.write_own_query(turn.turn_id, turn.content)
            queue.add(turn)

    async def _wake_agent(self, kept: Kept) -> None:
        try:
            await self._start(anyio.CancelScope(), None)
        except PorticoError as failure:
            log.warning("session %s: %s", self._journal.record.session_id, failure.detail)
            self.schedules.postpone(kept)

    def note_model(self, model: str) -> Sequence[EventBody]:
        """Do as `History.note_model`. A model that a caller set in this turn applies from the next on, in any case."""
        self._seat.note_model(model)
        if self._wishes.model_asked or model == self._journal.record.options.model:
            return []
        return self._journal.set_model(model)

    def note_rules(self) -> None:
        """Note that the agent was given the session's permission rules; the next turn makes sure that it has them."""
        self._wishes.rules_kept = True
        self._seat.note_rules(self._journal.record.options.permission_rules)

    async def _review_rules(self, turn_id: str | None) -> None:
        """Drop the permission rules that the operator no longer allows."""
        record = self._journal.record
        rules = record.options.permission_rules
        folders = await self._seat.open_folders(rules, record.cwd)
        dropped = [rule for rule in rules if allowed(rule, self._policy, folders) is None]
        if dropped:
            change = self._journal.drop_rules([rule["id"] for rule in dropped], "not_allowed")
            notice = Notice(type="notice", name="not_remembered", detail={"suggestions": dropped})
            await self._journal.write([notice, change], turn_id=turn_id)

    async def note_exit(self, detail: str) -> None:
        """Record that the agent has exited between two turns; ``detail`` says how."""
        self._wishes.agent_lost = True
        await self.put_away("agent_exited")
        await self._journal.persist(self._journal.write, [Notice(type="notice", name="agent_exited", detail=detail)])

    async def put_away(self, reason: str | None = None) -> None:
        """Stop the agent, if there is one, and release its slot.

        With a ``reason``, also record that its tasks in the background have died, however long the store takes.
        """
        self._slots.leave(self._holder)
        await self._seat.empty()
        self._slots.gone(self._holder)
        if reason is not None and (bodies := self.background.lost(reason)):
            await self._journal.persist(self._journal.write, bodies)

    def _spec(self) -> AgentSpec:
        record, turn = self._journal.record, self._turn
        options = record.options
        if isinstance(turn, OwnTurn):  # the agent is in it already, with the options that it has
            options = options.with_changes(output_schema=self._seat.output_schema)
        elif turn is not None and turn.output_schema is not None:
            options = options.with_changes(output_schema=turn.output_schema)
        return AgentSpec(record.agent_id, self._folder, Path(record.cwd), options, record.owner)

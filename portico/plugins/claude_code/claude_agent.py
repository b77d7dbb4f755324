"""A started agent: one CLI process, the one task that reads it, and the turns that it is given."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, cast

import anyio

from portico.core.abilities import LateAnswer
from portico.core.agent import AgentOptions, AgentSpec, Decision, OwnTurn, Turn
from portico.core.errors import AgentFailed, AgentUnavailable, PorticoError
from portico.core.events import AgentEvent, Aside, Complete, Notice
from portico.core.sums import summed
from portico.plugins.claude_code.buffer import EventBuffer, is_work
from portico.plugins.claude_code.cli_calls import CHANGE_TIME, CONTROL_TIME, CliCalls
from portico.plugins.claude_code.cli_failures import exit_text, start_failure
from portico.plugins.claude_code.content import encoded
from portico.plugins.claude_code.framer import Oversized
from portico.plugins.claude_code.items import Answered, Done, Item, Moved, Refused, Send, Taken
from portico.plugins.claude_code.late_answers import late_mode, late_result, late_text
from portico.plugins.claude_code.launch import Launch
from portico.plugins.claude_code.lines import decode_in_turns
from portico.plugins.claude_code.message_ids import message_id
from portico.plugins.claude_code.option_changes import (
    Request,
    change_requests,
    claim_requests,
    first_requests,
    fixed_options,
    rules_request,
)
from portico.plugins.claude_code.process import CliProcess
from portico.plugins.claude_code.protocol import Protocol

logger = logging.getLogger(__name__)

WARM_UP = "reload_skills"
"""A request that makes the CLI do in advance what its first turn would wait for: 35 of 200 ms of CPU, and the first
token comes 20 to 25 ms earlier (2.1.330). Nothing goes to the API. ``initialize`` does it too, but the first
``initialize`` belongs to the claim."""

SETTLE_TIME = 10.0
"""Seconds that an abandoned turn may take to end before the next one begins."""

EXIT_TIME = 5.0
"""Seconds between the end of stdout and the end of the process."""


class ClaudeAgent(CliCalls):
    """An implementation of `portico.core.agent.Agent`. `serve` is its task; the driver owns it."""

    def __init__(self, launch: Launch, process: CliProcess) -> None:
        self._launch, self.guards = launch, launch.guards()
        self._process = process
        config, options = launch.config, launch.spec.options
        self._protocol = Protocol(
            launch.conversation,
            options.permission_mode,
            config.permission_modes,
            options.model,
            prices=config.prices,
            subagents=config.subagents,
            resumed=launch.resume,
            structured=options.output_schema is not None,
        )
        self._introduction: str | None = None  # a request that the CLI must accept before it may work
        self._said = EventBuffer()
        self._unheard: list[bytes] = []  # messages, while they may have to be sent to another process
        self._steered: dict[str, str] = {}  # turn_id -> uuid of messages that no turn has taken up yet
        self._running: str | None = None  # uuid of the message that `run` follows
        self._beginning = anyio.Lock(fast_acquire=True)  # steering or interrupting comes after the turn's begin
        self._cold = True
        self._abandoned: set[str | None] = set()  # turns that nobody follows any more
        self._controls: dict[str, Answered | None] = {}  # those that a caller waits for
        self._changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._closing = False
        self._served = anyio.Event()

    async def introduce(self) -> None:
        """Send what the CLI has to know before its first message, if anything. The driver calls this once."""
        for subtype, members in first_requests(self._launch.spec.options):
            request_id, line = self._protocol.control(subtype, **members)
            if subtype == "initialize":
                self._introduction = request_id
            await self._submit(line)

    # --- the engine's side

    async def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        """See `Agent.run`. Raises `AgentUnavailable` if the CLI ends before it has taken the turn."""
        uuid = self._running = self._steered.pop(turn.turn_id, None) if isinstance(turn, Turn) else None
        line: bytes | None = None
        if uuid is not None:
            self._protocol.follow(uuid)
        elif isinstance(turn, Turn):
            async with self._beginning:
                await self._settle()
                content = await encoded(turn.content)
                uuid = self._running = message_id(self._launch.spec.agent_id, turn.turn_id)
                line = self._protocol.begin(uuid, turn.content, commands=turn.commands, encoded=content)
        others: list[Complete] = []
        finished = False
        try:
            if line is not None:
                await self._submit(line)
            while not finished:
                entry = await self._said.get()
                if isinstance(entry, OwnTurn):
                    continue  # the one that `watch` returned, or one that came just before our message
                if isinstance(entry, Taken):
                    if entry.uuid == uuid:  # a turn of the agent's own took it up
                        uuid = self._running = None
                    else:
                        yield self._steered_notice(entry.uuid)
                elif not isinstance(entry, Done):
                    yield entry
                elif entry.uuid == uuid:
                    finished = True
                    for event in await self._model_changes():
                        yield event
                    yield summed(entry.complete, others)
                else:
                    others.append(entry.complete)
        finally:
            if not finished:
                self._leave(uuid)

    async def watch(self) -> OwnTurn | Aside:
        """See `Agent.watch`. An agent that has had no message yet is warmed up."""
        if self._cold:
            self._cold = False
            with suppress(AgentFailed):  # `own_turn` reports its end
                await self._process.send(self._protocol.control(WARM_UP)[1])
        return await self._said.own_turn()

    async def claim(self, spec: AgentSpec) -> None:
        """See `Agent.claim`. Raises `InvalidRequest` for options that could not be passed to a later start."""
        started = self._launch.spec
        same = replace(spec, options=started.options, owner=started.owner) == started
        if not same or fixed_options(spec.options) != replace(started.options, model=None):
            raise AgentFailed("The agent was started for something else.", code="agent_mismatch")
        launch = self._launch.claimed(spec)
        await self._request(claim_requests(started.options, spec.options, launch.config.model), CONTROL_TIME)
        self._protocol.set_model(spec.options.model)
        self._launch = launch

    async def configure(self, options: AgentOptions) -> None:
        """See `Agent.configure`. Only the options that it names may differ from the agent's present ones.

        Raises `AgentFailed` (``agent_error``) if the CLI refuses (``bypassPermissions`` needs a start); it then
        continues as before.
        """
        launch = self._launch.with_options(options)
        before = self._launch.spec.options.with_changes(model=self._protocol.model)
        await self._request(change_requests(before, options, launch.config.model), CHANGE_TIME)
        self._protocol.set_model(options.model)
        self._launch = launch

    async def steer(self, turn: Turn) -> None:
        """See `Agent.steer`."""
        async with self._beginning:
            content = await encoded(turn.content)
            uuid = message_id(self._launch.spec.agent_id, turn.turn_id, steered=True)
            line = self._protocol.steer(uuid, turn.content, commands=turn.commands, encoded=content)
            self._steered[turn.turn_id] = uuid
        await self._submit(line)

    async def interrupt(self) -> None:
        """See `Agent.interrupt`. Raises `AgentFailed` (``agent_stalled``) if the CLI does not answer within 5 s."""
        if self._protocol.expects(self._running):  # the next turn is not meant
            await self._interrupt()

    async def answer(self, request_id: str, decision: Decision) -> None:
        """See `Agent.answer`. Raises `Conflict` (``already_resolved``) if nobody waits for the answer any more."""
        rules = self._protocol.remembered(request_id, decision)
        items = self._protocol.answer(request_id, decision, rules=False)
        if rules:  # the CLI must know them before it goes on
            options = self._launch.spec.options
            options = options.with_changes(permission_rules=(*options.permission_rules, *rules))
            subtype, members = rules_request(options)
            items.insert(0, Send(self._protocol.control(subtype, **members)[1]))
            self._launch = self._launch.with_options(options)
        await self._act(items)

    async def go_on(self, late: LateAnswer) -> AsyncIterator[AgentEvent]:
        """See `AgentAbilities.go_on`."""
        if (mode := late_mode(late)) is not None:
            await self._request([("set_permission_mode", {"mode": mode})], CHANGE_TIME)
        text = late_text(late)
        yield late_result(late, text)
        turn = Turn(f"{late.turn_id} {late.request['request_id']}", text)
        async with aclosing(cast(Any, self.run(turn))) as events:
            async for event in events:
                yield event

    async def part(self) -> Complete:
        """See `AgentAbilities.part`. An interrupt would be told to the model as a no of the user."""
        session: Any = None
        with suppress(AgentFailed):
            session = (await self._asked("get_usage")).get("session")
        used = self._protocol.part(session.get("model_usage") if isinstance(session, dict) else None)
        self._closing = True
        await self._process.close(self._process.terminate)
        await self.close()
        return used

    async def close(self) -> None:
        self._closing = True
        try:
            with self._said.unlimited():
                await self._process.close(self._stop_turn if self._protocol.busy else None)
        finally:
            self._scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._served.wait()

    async def _submit(self, line: bytes) -> None:
        self._cold = False
        if not self._protocol.heard:
            self._unheard.append(line)
        try:
            await self._process.send(line)
        except AgentFailed as error:
            if error.code == "agent_stalled":
                raise
            # It has ended: `serve` knows the reason, and starts another process or closes the buffer.

    async def _model_changes(self) -> list[AgentEvent]:
        """Ask for the model at the end of a turn that may have changed it: the next process must begin with it."""
        if self._protocol.model_settled():
            return []
        with suppress(AgentFailed):  # the next turn's start reports it, too
            return list(self._protocol.model_found(await self._asked("get_settings")))
        return []

    def _steered_notice(self, uuid: str) -> Notice:
        turn_id = next(turn_id for turn_id, known in self._steered.items() if known == uuid)
        del self._steered[turn_id]
        return Notice(type="notice", name="steered", detail={"turn_id": turn_id})

    async def _interrupt(self) -> None:
        request_id, items = self._protocol.interrupt()
        await self._ask([request_id], items, CONTROL_TIME)

    async def _request(self, requests: Iterable[Request], within: float) -> None:
        """Make these control requests. Raises `AgentFailed`: ``agent_error`` if one of them is refused."""
        lines = [self._protocol.control(subtype, **members) for subtype, members in requests]
        if lines:
            await self._ask([request_id for request_id, _ in lines], [Send(line) for _, line in lines], within)

    async def _asked(self, subtype: str, within: float = CONTROL_TIME, **members: Any) -> Mapping[str, Any]:
        request_id, line = self._protocol.control(subtype, **members)
        if not self._protocol.heard:
            self._unheard.append(line)
        (answer,) = await self._ask([request_id], [Send(line)], within)
        return answer.response

    async def _ask(self, request_ids: list[str], items: list[Item], within: float) -> list[Answered]:
        """Send the requests, and return the answers to all of them."""
        self._controls.update(dict.fromkeys(request_ids))
        try:
            with self._said.unlimited(), anyio.fail_after(within):
                await self._act(items)
                while not (self._served.is_set() or all(self._controls[request_id] for request_id in request_ids)):
                    await self._changed.wait()
        except TimeoutError:
            raise AgentFailed("The agent does not answer.", code="agent_stalled") from None
        finally:
            answers = [self._controls.pop(request_id) for request_id in request_ids]
        given = []
        for answer in answers:
            if answer is None:
                raise AgentFailed("The agent has ended.")
            if answer.error is not None:
                raise AgentFailed(f"The agent refuses: {answer.error}.", code="agent_error")
            given.append(answer)
        return given

    async def _stop_turn(self) -> None:
        await self._interrupt()
        while self._protocol.busy and not self._served.is_set():
            await self._changed.wait()

    def _leave(self, uuid: str | None) -> None:
        """Abandon this turn: nobody follows it any more."""
        if self._protocol.expects(uuid):
            self._abandoned.add(uuid)
        self._said.discard_turn(uuid)
        self._protocol.forget_told()

    async def _settle(self) -> None:
        while self._steered:  # their turns should have been run before
            self._leave(self._steered.popitem()[1])
        try:
            with anyio.fail_after(SETTLE_TIME):
                while self._abandoned and not self._served.is_set():
                    await self._changed.wait()
        except TimeoutError:
            raise AgentFailed("The turn before does not end.", code="agent_stalled") from None

    # --- the CLI's side

    async def serve(self) -> None:
        """Read the CLI until it ends, or until `close`. Raises nothing, and leaves no process behind."""
        end: PorticoError = AgentFailed("The agent was closed.", code="agent_closed")
        try:
            with self._scope:
                end = await self._follow()
                if not self._closing and end.code in ("no_conversation", "session_in_use"):
                    await self._start_otherwise(end.code)
                    end = await self._follow()
        except PorticoError as error:  # from the second start
            end = error
        except Exception:
            logger.exception("an agent's output can't be processed")
            end = AgentFailed("The agent's output can't be read; see the server's log.", code="internal_error")
        finally:
            if self._closing:
                end = AgentFailed("The agent was closed.", code="agent_closed")
            self._said.close(end)
            try:
                await self._process.close()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._launch.clear()
                self._served.set()
                self._wake()

    async def _follow(self) -> PorticoError:
        """Read the process to its end; return the error that describes the end."""
        process, protocol = self._process, self._protocol
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            while lines := await process.receive():
                for line in lines:
                    await self._hear(line)
                if protocol.heard:
                    self._unheard.clear()
            with anyio.move_on_after(EXIT_TIME):
                await process.wait()
            if process.returncode is None:
                await process.close()
        if protocol.ignored:
            logger.warning("%d lines of agent process %d could not be read", protocol.ignored, process.pid)
        if protocol.heard:
            return AgentFailed(exit_text(process.returncode, process.stderr_tail))
        code, text = start_failure(process.returncode, process.stderr_tail)
        return AgentUnavailable(text, code=code)

    async def _hear(self, line: bytes | Oversized) -> None:
        size = 0
        message: dict[str, Any] | Oversized | None = line if isinstance(line, Oversized) else None
        if isinstance(line, bytes):
            message, size = await decode_in_turns(line), len(line)
        idle = not self._protocol.busy
        items = self._protocol.take(message)
        try:
            await self._act(items, size, idle=idle and not self._protocol.busy)
        except AgentFailed as error:  # it takes no reply: its end, or a turn's time limit, follows
            logger.warning("agent process %d: %s", self._process.pid, error.detail)
        await self._said.wait_for_room()

    async def _start_otherwise(self, code: str) -> None:
        """Start again, once: an agent that could not be resumed as a new one, an agent that exists by resuming it."""
        if code == "no_conversation":
            await self._launch.set_transcripts_aside()
        await self._process.close()
        self._process = await self._launch.start(resume=code == "session_in_use")
        for line in self._unheard:
            await self._process.send(line)

    async def _act(self, items: list[Item], size: int = 0, *, idle: bool = False) -> None:
        for item in items:
            if isinstance(item, Send):
                await self._process.send(item.line)
            elif isinstance(item, Answered):
                if item.request_id == self._introduction and item.error is not None:
                    raise RuntimeError(f"the agent takes no hook: {item.error}")
                if item.request_id in self._controls:
                    self._controls[item.request_id] = item
            elif isinstance(item, Moved):
                await self._launch.move(item.conversation)
            elif isinstance(item, Refused):
                self._steered = {turn: uuid for turn, uuid in self._steered.items() if uuid != item.uuid}
                self._abandoned.discard(item.uuid)
            elif not self._abandoned or is_work(item):
                self._said.put(item, size, idle=idle)
            elif isinstance(item, Done | Taken):
                self._abandoned.discard(item.uuid)
            if isinstance(item, Answered | Done | Taken | Refused):
                self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

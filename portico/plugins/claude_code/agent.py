"""A started agent: one CLI process, the one task that reads it, and the turns that are asked of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from uuid import uuid4

import anyio

from ...core.agent import Decision, OwnTurn, Turn
from ...core.errors import AgentFailed, AgentUnavailable, PorticoError
from ...core.events import AgentEvent, Complete
from .buffer import EventBuffer
from .failures import exit_text, start_failure
from .framer import Oversized
from .items import Answered, Done, Item, Send
from .launch import Launch
from .process import CliProcess
from .protocol import Protocol

logger = logging.getLogger(__name__)

CONTROL_TIME = 5.0
"""Seconds in which the CLI has to answer a control request. It takes 4 to 13 ms."""

SETTLE_TIME = 10.0
"""Seconds that a turn which nobody follows any more may take to end, before the next one begins."""

EXIT_TIME = 5.0
"""Seconds between the end of stdout and the end of the process."""


class ClaudeAgent:
    """Implements `portico.core.agent.Agent`. `serve` is its task; the driver owns it."""

    def __init__(self, launch: Launch, process: CliProcess) -> None:
        self._launch = launch
        self._process = process
        self._protocol = Protocol()
        self._said = EventBuffer()
        self._sent: bytes | None = None  # the message, as long as it may have to be sent to another process
        self._abandoned: set[str | None] = set()  # turns that nobody follows any more
        self._controls: dict[str, Answered | None] = {}  # that somebody waits for
        self._changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._closing = False
        self._served = anyio.Event()

    # --- the engine's side

    async def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        """See `Agent.run`. Where the CLI ends before it has taken the turn, raises `AgentUnavailable`."""
        uuid: str | None = None
        if isinstance(turn, Turn):
            await self._settle()
            uuid = str(uuid4())
            self._sent = self._protocol.begin(uuid, turn.content)
        others: list[Complete] = []
        finished = False
        try:
            if isinstance(turn, Turn):
                await self._submit()
            while not finished:
                entry = await self._said.get()
                if isinstance(entry, OwnTurn):
                    continue  # the one that `watch` told of, or it came just before our message
                if not isinstance(entry, Done):
                    yield entry
                elif entry.uuid == uuid:
                    finished = True
                    yield _sum(entry.complete, others)
                else:
                    others.append(entry.complete)
        finally:
            if not finished and not self._said.discard_turn(uuid):
                self._abandoned.add(uuid)

    async def watch(self) -> OwnTurn:
        return await self._said.own_turn()

    async def interrupt(self) -> None:
        """See `Agent.interrupt`. Raises `AgentFailed` (``agent_stalled``) where the CLI does not answer within 5 s."""
        if not self._protocol.busy:
            return
        request_id, items = self._protocol.interrupt()
        self._controls[request_id] = None
        try:
            with self._said.unlimited(), anyio.fail_after(CONTROL_TIME):
                await self._act(items)
                while self._controls[request_id] is None and not self._served.is_set():
                    await self._changed.wait()
        except TimeoutError:
            raise AgentFailed("The agent does not answer.", code="agent_stalled") from None
        finally:
            answer = self._controls.pop(request_id)
        if answer is None:
            raise AgentFailed("The agent has ended.")
        if answer.error is not None:
            raise AgentFailed(f"The agent does not stop: {answer.error}.", code="agent_error")

    async def answer(self, request_id: str, decision: Decision) -> None:
        """See `Agent.answer`. Raises `Conflict` (``already_resolved``) where nobody waits for it any more."""
        await self._act(self._protocol.answer(request_id, decision))

    async def close(self) -> None:
        self._closing = True
        try:
            with self._said.unlimited():
                await self._process.close(self._stop_turn if self._protocol.busy else None)
        finally:
            self._scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._served.wait()

    async def _submit(self) -> None:
        assert self._sent is not None  # noqa: S101
        try:
            await self._process.send(self._sent)
        except AgentFailed as error:
            if error.code == "agent_stalled":
                raise
            # It has ended: `serve` knows why, and starts another or closes the buffer.

    async def _stop_turn(self) -> None:
        await self.interrupt()
        while self._protocol.busy and not self._served.is_set():
            await self._changed.wait()

    async def _settle(self) -> None:
        try:
            with anyio.fail_after(SETTLE_TIME):
                while self._abandoned and not self._served.is_set():
                    await self._changed.wait()
        except TimeoutError:
            raise AgentFailed("The turn before does not end.", code="agent_stalled") from None

    # --- the CLI's side

    async def serve(self) -> None:
        """Read the CLI until it ends, or `close`. Raises nothing, and leaves no process behind."""
        end: PorticoError = AgentFailed("The agent was closed.", code="agent_closed")
        try:
            with self._scope:
                end = await self._follow()
                if not self._closing and end.code in ("no_conversation", "session_in_use"):
                    await self._start_otherwise(end.code)
                    end = await self._follow()
        except PorticoError as error:  # of the second start
            end = error
        except Exception as error:
            logger.exception("what an agent says can't be followed")
            end = AgentFailed(f"What the agent says can't be followed: {error!r}", code="internal_error")
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
        """Read the process to its end; return what to say of that."""
        process, protocol = self._process, self._protocol
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            while lines := await process.receive():
                for line in lines:
                    await self._hear(line)
                if protocol.heard:
                    self._sent = None
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
        idle = not self._protocol.busy
        if isinstance(line, Oversized):
            items, size = self._protocol.dropped(line.size), 0
        else:
            items, size = self._protocol.receive(line), len(line)
        try:
            await self._act(items, size, idle=idle and not self._protocol.busy)
        except AgentFailed as error:  # it takes no reply: its end is seen here, or a turn's time limit ends it
            logger.warning("agent process %d: %s", self._process.pid, error.detail)
        await self._said.wait_for_room()

    async def _start_otherwise(self, code: str) -> None:
        """Once, start what was to be resumed as new, or what exists already by resuming it."""
        if code == "no_conversation":
            await self._launch.set_transcripts_aside()
        await self._process.close()
        self._process = await self._launch.start(resume=code == "session_in_use")
        if self._sent is not None:
            await self._process.send(self._sent)

    async def _act(self, items: list[Item], size: int = 0, *, idle: bool = False) -> None:
        for item in items:
            if isinstance(item, Send):
                await self._process.send(item.line)
            elif isinstance(item, Answered):
                if item.request_id in self._controls:
                    self._controls[item.request_id] = item
            elif not self._abandoned:
                self._said.put(item, size, idle=idle)
            elif isinstance(item, Done):
                self._abandoned.discard(item.uuid)
            if isinstance(item, Answered | Done):
                self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


def _sum(complete: Complete, others: list[Complete]) -> Complete:
    """With what was spent by turns of the agent's own that this one has taken in."""
    usage = dict(complete["usage"])
    for other in others:
        for name, tokens in other["usage"].items():
            usage[name] = usage.get(name, 0) + tokens
    cost = complete["cost_usd"] + sum(other["cost_usd"] for other in others)
    return Complete(type="complete", stop_reason=complete["stop_reason"], usage=usage, cost_usd=cost)

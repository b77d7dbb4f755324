"""A started agent: the SDK's client, the one task that owns it, and the turns that it is given."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any
from uuid import uuid4

import anyio
from anyio.abc import TaskStatus
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    CLIConnectionError,
    HookMatcher,
    Message,
    PermissionResultAllow,
    PermissionResultDeny,
    ToolPermissionContext,
)

from portico import AgentEvent, AgentOptions, AgentSpec, Decision, OwnTurn, Turn
from portico.core.errors import AgentFailed, AgentUnavailable, Conflict, PorticoError
from portico.core.events import Aside, Complete
from portico.plugins.claude_code.toolkit import (
    CHANGE_TIME,
    CONTROL_TIME,
    EXIT_TIME,
    SETTLE_TIME,
    Answered,
    CliProcess,
    Done,
    EventBuffer,
    Item,
    Launch,
    Moved,
    Oversized,
    Protocol,
    Refused,
    Send,
    Taken,
    exit_text,
    mode_ruling,
    needs_mode_hook,
    start_failure,
    summed,
)
from portico_claude_agent_sdk.messages import line_of
from portico_claude_agent_sdk.permissions import Callbacks
from portico_claude_agent_sdk.transport import CliTransport

logger = logging.getLogger(__name__)

START_TIME = 40.0
"""Seconds in which the CLI has to answer the SDK's ``initialize``."""

ORDER_TIME = 5.0
"""Seconds that a permission request waits for its tool use, which is still in the SDK's buffer when the request
arrives.
"""

USES_KEPT = 256


class SdkAgent:
    """An implementation of `portico.Agent`. `serve` is its task, which also connects and disconnects the client; the
    driver owns it.
    """

    def __init__(self, launch: Launch, process: CliProcess) -> None:
        self._launch = launch
        self._process = process
        self._transport = CliTransport(process)
        options = ClaudeAgentOptions(can_use_tool=self._may_use)
        if needs_mode_hook(launch.spec.options):
            options.hooks = {"PreToolUse": [HookMatcher(hooks=[self._look_at_mode])]}
        self._client = ClaudeSDKClient(options, self._transport)
        options_asked, prices = launch.spec.options, launch.config.prices
        self._protocol = Protocol(
            launch.conversation, options_asked.permission_mode, model=options_asked.model, prices=prices
        )
        self._callbacks = Callbacks(lambda line: self._act(self._protocol.take(line)))
        self._said = EventBuffer()
        self._running: str | None = None  # uuid of the message that `run` follows
        self._begun: set[str] = set()  # uuids of the last turn's messages that the CLI has begun
        self._used: deque[str] = deque(maxlen=USES_KEPT)  # ids of the last tool uses
        self._abandoned: set[str | None] = set()  # turns that nobody follows any more
        self._changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._connected = False
        self._served = anyio.Event()

    # --- the engine's side

    async def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        """See `Agent.run`. Raises `AgentUnavailable` if the CLI ends before it has taken the turn."""
        uuid: str | None = None
        line: bytes | None = None
        if isinstance(turn, Turn):
            await self._settle()
            uuid = str(uuid4())
            line = self._protocol.begin(uuid, turn.content, commands=turn.commands)
        self._running = uuid
        others: list[Complete] = []
        finished = False
        try:
            if line is not None:
                await self._submit(line)
            while not finished:
                entry = await self._said.get()
                if isinstance(entry, OwnTurn):
                    continue  # the one that `watch` returned, or one that came just before our message
                if isinstance(entry, Taken):  # a turn of the agent's own took it up
                    uuid = self._running = None
                elif not isinstance(entry, Done):
                    yield entry
                elif entry.uuid == uuid:
                    finished = True
                    yield summed(entry.complete, others)
                else:
                    others.append(entry.complete)
        finally:
            if not finished:
                if self._protocol.expects(uuid):
                    self._abandoned.add(uuid)
                self._said.discard_turn(uuid)
                self._protocol.forget_told()

    async def watch(self) -> OwnTurn | Aside:
        return await self._said.own_turn()

    async def claim(self, spec: AgentSpec) -> None:
        raise _not_supported("claim")

    async def configure(self, options: AgentOptions) -> None:
        """See `Agent.configure`. Raises `AgentFailed`: ``agent_error`` if the CLI refuses."""
        launch = self._launch.with_options(options)
        if options.model != self._protocol.model:
            await self._control(self._client.set_model(options.model or launch.config.model), CHANGE_TIME)
            self._protocol.set_model(options.model)
        mode: Any = options.permission_mode
        await self._control(self._client.set_permission_mode(mode), CONTROL_TIME)
        self._launch = launch

    async def steer(self, turn: Turn) -> None:
        raise _not_supported("steer")

    async def interrupt(self) -> None:
        """See `Agent.interrupt`. Raises `AgentFailed` (``agent_stalled``) if the CLI does not answer in time."""
        uuid = self._running
        with anyio.move_on_after(CONTROL_TIME):
            # An interrupt before the turn has begun stops nothing, and the SDK doesn't report which case it was.
            while uuid is not None and uuid not in self._begun and self._protocol.expects(uuid):
                await self._changed.wait()
        if self._protocol.expects(uuid):  # the next turn is not meant
            request_id, (*denials, _) = self._protocol.interrupt()
            self._act(denials)
            await self._control(self._client.interrupt(), CONTROL_TIME)
            response = {"subtype": "success", "request_id": request_id}
            self._protocol.take({"type": "control_response", "response": response})

    async def answer(self, request_id: str, decision: Decision) -> None:
        """See `Agent.answer`. Raises `Conflict` (``already_resolved``) if nobody waits for the answer any more."""
        self._act(self._protocol.answer(request_id, decision))

    async def close(self) -> None:
        self._transport.closing = True
        try:
            with self._said.unlimited():
                await self._process.close(self._stop_turn if self._protocol.busy else None)
        finally:
            self._scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._served.wait()

    async def _submit(self, line: bytes) -> None:
        async def messages() -> AsyncIterator[dict[str, Any]]:
            yield json.loads(line)

        try:
            await self._client.query(messages())
        except (AgentFailed, CLIConnectionError) as error:
            if isinstance(error, AgentFailed) and error.code == "agent_stalled":
                raise
            # It has ended: `serve` knows the reason, and closes the buffer.

    async def _control(self, request: Awaitable[None], within: float) -> None:
        try:
            with self._said.unlimited(), anyio.fail_after(within):
                await request
        except PorticoError:
            raise
        except TimeoutError:
            raise AgentFailed("The agent does not answer.", code="agent_stalled") from None
        except ClaudeSDKError as error:
            raise AgentFailed("The agent has ended.") from error
        except Exception as error:  # the SDK's error for a refusal
            raise AgentFailed(f"The agent refuses: {error}.", code="agent_error") from error

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

    # --- the SDK's side

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Connect (or raise `AgentUnavailable`), then read until the CLI ends, or `close`. Leaves no process behind."""
        end: PorticoError = AgentFailed("The agent was closed.", code="agent_closed")
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._process.run)
                    await self._follow(task_status)
                    await self._process.close()
                if not self._transport.closing:
                    end = self._exit_failure()
        except* TimeoutError:
            end = AgentUnavailable("The agent did not answer at its start.", code="agent_stalled")
        except* Exception as errors:
            logger.exception("an agent's output can't be processed")
            kind = AgentFailed if self._connected else AgentUnavailable
            end = kind(f"The agent's output can't be processed: {errors.exceptions!r}", code="internal_error")
        finally:
            self._said.close(end)
            with anyio.CancelScope(shield=True):
                await self._end()
        if not self._connected:
            raise end

    async def _follow(self, task_status: TaskStatus[None]) -> None:
        """Connect, and read until the process has ended."""
        try:
            with anyio.fail_after(START_TIME):
                await self._client.connect()
            self._connected = True
            task_status.started()
            while not await self._listen():
                pass
        except CLIConnectionError as error:
            logger.debug("agent process %d: %s", self._process.pid, error)
        with anyio.move_on_after(EXIT_TIME):
            await self._process.wait()

    async def _end(self) -> None:
        try:
            await self._client.disconnect()
        except Exception:
            logger.exception("the SDK's client of agent process %d can't be disconnected", self._process.pid)
        finally:
            await self._process.close()
            await self._launch.clear()
            self._served.set()
            self._wake()

    async def _listen(self) -> bool:
        """Read messages; return whether they have ended. A message that the SDK can't read ends its stream, which can
        restart.
        """
        try:
            async for message in self._client.receive_messages():
                await self._hear(message)
        except CLIConnectionError:
            raise
        except ClaudeSDKError as error:
            logger.warning("agent process %d: a message was left out: %s", self._process.pid, error)
            return False
        return True

    async def _hear(self, message: Message) -> None:
        line = line_of(message)
        if line is None:
            return
        idle = not self._protocol.busy
        items = self._protocol.dropped(line) if isinstance(line, Oversized) else self._protocol.take(line)
        if isinstance(line, dict) and line.get("subtype") == "init":
            self._begun = set(line.get("user_message_uuids") or ())
            self._wake()
        for item in items:
            if isinstance(item, Moved):
                await self._launch.move(item.conversation)
        size = len(repr(message))  # the size of its line is not known here
        self._act(items, size, idle=idle and not self._protocol.busy)
        await self._said.wait_for_room()

    def _act(self, items: Iterable[Item], size: int = 0, *, idle: bool = False) -> None:
        for item in items:
            if isinstance(item, Send):
                self._callbacks.answer(item.line)
            elif isinstance(item, Moved | Refused | Answered):
                continue
            elif not self._abandoned:
                self._said.put(item, size, idle=idle)
            elif isinstance(item, Done | Taken):
                self._abandoned.discard(item.uuid)
            if isinstance(item, dict) and item["type"] == "tool_use":
                self._used.append(item["tool_use_id"])
        self._wake()

    async def _look_at_mode(self, asked: Any, tool_use_id: str | None, context: Any) -> Any:
        return mode_ruling(asked, self._launch.config.permission_modes)

    async def _may_use(
        self, tool_name: str, given: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        with anyio.move_on_after(ORDER_TIME):
            while context.tool_use_id not in self._used:
                await self._changed.wait()
        return await self._callbacks.ask(tool_name, given, context)

    def _exit_failure(self) -> PorticoError:
        status, said = self._process.returncode, self._process.stderr_tail
        if self._connected and self._protocol.heard:
            return AgentFailed(exit_text(status, said))
        code, text = start_failure(status, said)
        return AgentUnavailable(text, code=code)

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


def _not_supported(capability: str) -> Conflict:
    return Conflict(f"Agents of the SDK cannot do this: {capability}.", code="not_supported")

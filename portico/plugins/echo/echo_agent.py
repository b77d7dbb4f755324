"""An echo as an agent: no process, no model, and no context that could be lost."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import count
from uuid import uuid4

import anyio
import anyio.lowlevel

from portico.core.agent import AgentOptions, AgentSpec, Decision, OwnTurn, Turn
from portico.core.errors import AgentFailed, Conflict
from portico.core.events import (
    AgentEvent,
    AgentMode,
    Aside,
    Complete,
    Delta,
    ErrorEvent,
    Message,
    Notice,
    PermissionRequest,
    PermissionWithdrawn,
    ToolResult,
    ToolUse,
)
from portico.plugins.echo.echo_script import ToolCall, read_query


@dataclass(slots=True)
class _Request:
    """A permission request that waits. ``settled`` is also set when nobody waits any more."""

    request_id: str = field(default_factory=lambda: uuid4().hex)
    settled: anyio.Event = field(default_factory=anyio.Event)
    decision: Decision | None = None


class EchoAgent:
    """An implementation of `portico.core.agent.Agent`."""

    def __init__(self, spec: AgentSpec) -> None:
        self._spec = spec
        self._remembered: set[str] = set()
        self._told_mode = spec.options.permission_mode
        self._in_turn = False
        self._steered: deque[Turn] = deque()
        self._request: _Request | None = None
        self._stop = anyio.Event()
        self._gone = anyio.Event()

    async def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        """See `Agent.run`. A steered turn is said from the next word on; the rest of the earlier text is dropped."""
        self._stop, self._in_turn = anyio.Event(), True
        self._steered.clear()  # the engine now runs those as turns of their own
        query, name, output = turn.content, uuid4().hex, 0
        for number in count():
            saying = read_query(query, self._spec.options)
            if saying.mode is not None:
                self._set_mode(saying.mode)
                yield self._tell_mode()
            if saying.ask is not None:
                async with aclosing(self._use(saying.ask)) as events:
                    async for event in events:
                        yield event
            said = []
            for piece in saying.pieces:
                if self._spec.options.permission_mode != self._told_mode:
                    yield self._tell_mode()
                if self._steered or self._stop.is_set() or self._gone.is_set():
                    break
                yield Delta(type="delta", content=piece, message_id=f"{name}-{number}", index=0)
                output += 1
                if saying.text is not None:
                    said.append(piece)
                with anyio.move_on_after(saying.gap):
                    await (self._stop.wait() if saying.gap else anyio.lowlevel.checkpoint())
            self._check()
            if self._stop.is_set():
                break
            if saying.text is not None:
                blocks = [{"type": "text", "text": "".join(said)}]
                message_id = f"{name}-{number}"
                yield Message(type="message", role="assistant", content=blocks, message_id=message_id, index=0)
            if not self._steered:
                break
            steered = self._steered.popleft()
            query = steered.content
            yield Notice(type="notice", name="steered", detail={"turn_id": steered.turn_id})
        stop_reason = "end_turn"
        if self._stop.is_set():
            stop_reason = "interrupted"
        elif saying.fail:
            stop_reason = "error"
            yield ErrorEvent(type="error", error="as was asked", code="api_error")
        self._in_turn = False
        complete = Complete(type="complete", stop_reason=stop_reason, usage={"output_tokens": output}, cost_usd=0.0)
        if saying.give is not None and self._spec.options.output_schema is not None:
            complete["structured_output"] = saying.give
        yield complete

    async def _use(self, call: ToolCall) -> AsyncGenerator[AgentEvent, None]:
        tool_use_id, name = uuid4().hex, call.tool_name
        yield ToolUse(type="tool_use", tool_use_id=tool_use_id, tool_name=name, input=call.input)
        decision = self._decided(name)
        if decision is None:
            request = self._request = _Request()
            asked = PermissionRequest(
                type="permission_request",
                request_id=request.request_id,
                tool_name=name,
                input=call.input,
                tool_use_id=tool_use_id,
            )
            if call.suggestions:
                asked["suggestions"] = call.suggestions
            yield asked
            await request.settled.wait()
            self._request = None
            self._check()
            decision = request.decision
            if decision is None:
                yield PermissionWithdrawn(type="permission_withdrawn", request_id=request.request_id)
                return
        if decision.behavior == "deny":
            result, denied = decision.message or "This is not allowed.", True
        else:
            given = call.input if decision.updated_input is None else dict(decision.updated_input)
            result, denied = json.dumps(given), False
            self._remember(name, decision)
        yield ToolResult(type="tool_result", tool_use_id=tool_use_id, content=result, is_error=denied)

    def _remember(self, tool_name: str, decision: Decision) -> None:
        if decision.remember and not decision.remembered:
            self._remembered.add(tool_name)
        for suggestion in decision.remembered:
            match suggestion:
                case {"type": "setMode", "mode": str(mode)}:
                    self._set_mode(mode)
                case {"type": "addRules", "behavior": "allow", "rules": [*rules]}:
                    self._remembered.update(rule["toolName"] for rule in rules)

    def _set_mode(self, mode: str) -> None:
        self._spec = replace(self._spec, options=self._spec.options.with_changes(permission_mode=mode))

    def _tell_mode(self) -> AgentMode:
        mode = self._told_mode = self._spec.options.permission_mode
        return AgentMode(type="permission_mode", permission_mode=mode)

    def _decided(self, tool_name: str) -> Decision | None:
        """Return the decision that needs no request, or None."""
        options = self._spec.options
        if tool_name in options.disallowed_tools:
            return Decision("deny")
        if tool_name in options.allowed_tools or tool_name in self._remembered:
            return Decision("allow")
        match options.permission_mode:
            case "acceptEdits" | "bypassPermissions":
                return Decision("allow")
            case "dontAsk":
                return Decision("deny")
        return None

    async def watch(self) -> OwnTurn | Aside:
        await self._gone.wait()
        raise _closed()

    async def claim(self, spec: AgentSpec) -> None:
        self._check()
        if replace(spec, options=self._spec.options, owner=self._spec.owner) != self._spec:
            raise AgentFailed("The agent was started for another session.", code="agent_mismatch")
        self._spec = spec
        self._told_mode = spec.options.permission_mode

    async def configure(self, options: AgentOptions) -> None:
        self._check()
        self._spec = replace(self._spec, options=options)
        if not self._in_turn:
            self._told_mode = options.permission_mode

    async def steer(self, turn: Turn) -> None:
        self._check()
        read_query(turn.content, self._spec.options)
        self._steered.append(turn)

    async def interrupt(self) -> None:
        self._stop.set()
        self._settle()

    async def answer(self, request_id: str, decision: Decision) -> None:
        """See `Agent.answer`. Raises `Conflict` (``already_resolved``) if nobody waits for the answer any more."""
        request = self._request
        if request is None or request.request_id != request_id or request.settled.is_set():
            raise Conflict(f"No permission request {request_id} is open.", code="already_resolved")
        request.decision = decision
        self._settle()

    async def close(self) -> None:
        self._gone.set()
        await self.interrupt()

    def _settle(self) -> None:
        if self._request is not None:
            self._request.settled.set()

    def _check(self) -> None:
        if self._gone.is_set():
            raise _closed()


def _closed() -> AgentFailed:
    return AgentFailed("The agent was closed.", code="agent_closed")

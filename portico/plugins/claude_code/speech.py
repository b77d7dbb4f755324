"""The words and tools of the agent and of its subagents, as events. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portico.core.events import AgentEvent, ToolResult
from portico.plugins.claude_code.cli_details import details
from portico.plugins.claude_code.stream import MessageStream

Json = dict[str, Any]

MAX_SPEAKERS = 64
"""Subagents whose messages are followed at once."""


class Speech:
    """The messages of one CLI process, by speaker.

    ``error`` is the CLI's name for an API failure in this turn, None if there was none.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self._streams: dict[str | None, MessageStream] = {}
        self._subagents: dict[str, str] = {}  # agent_id -> parent_tool_use_id

    def parent_of(self, agent_id: Any) -> str | None:
        """Return the id of the tool use that started the subagent, if it is known."""
        return self._subagents.get(str(agent_id))

    def end_turn(self) -> None:
        """Forget the agent's own message: the next turn begins with another one."""
        self._streams.pop(None, None)

    def streamed(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the events for a ``stream_event`` line."""
        event = line.get("event")
        if isinstance(event, dict):
            yield from self._stream(line).streamed(event)

    def said(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the events for an ``assistant`` line."""
        message = line.get("message")
        if not isinstance(message, dict):
            return
        if not line.get("is_api_error_message"):
            yield from self._stream(line).finished(message)
        elif line.get("parent_tool_use_id") is None:
            # Its text comes again in the result, which says whether the turn failed because of it.
            self.error = str(line.get("error"))

    def tool_results(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the tool results of a ``user`` line: its texts are the CLI's own notes to the model."""
        message = line.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        parent = line.get("parent_tool_use_id")
        blocks = content if isinstance(content, list) else []
        results = [block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_result"]
        for block in results:
            output = block.get("content")
            result = ToolResult(
                type="tool_result",
                tool_use_id=str(block.get("tool_use_id")),
                content=output if isinstance(output, str | list) else "",
                is_error=block.get("is_error") is True,
            )
            if len(results) == 1 and (known := details(line, result["tool_use_id"])) is not None:
                result["details"] = known
            if isinstance(parent, str):
                result["parent_tool_use_id"] = parent
            yield result

    def _stream(self, line: Json) -> MessageStream:
        parent = line.get("parent_tool_use_id")
        parent = parent if isinstance(parent, str) else None
        if isinstance(agent := line.get("agent_id"), str) and parent is not None:
            self._subagents[agent] = parent
            _forget_oldest(self._subagents)
        if parent not in self._streams:
            self._streams[parent] = MessageStream(parent)
            _forget_oldest(self._streams)
        return self._streams[parent]


def _forget_oldest(followed: dict[Any, Any]) -> None:
    if len(followed) > MAX_SPEAKERS:
        del followed[next(iter(followed))]

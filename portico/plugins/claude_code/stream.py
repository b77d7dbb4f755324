"""One speaker's messages, streamed and finished, as events that name their message and block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from portico.core.events import AgentEvent, Delta, Message, Thinking, ToolUse

Json = Mapping[str, Any]


class _Address(TypedDict, total=False):
    message_id: str
    index: int
    parent_tool_use_id: str


class MessageStream:
    """The messages of the agent, or of one subagent. Sans-IO.

    The CLI gives a message twice: as the API's stream events, and as one ``assistant`` line for each finished block,
    which comes just before its ``content_block_stop`` and has no index of its own. A stream that breaks is requested
    again as a new message, often in one piece; then the streamed part of the old message is void.
    """

    def __init__(self, parent_tool_use_id: str | None = None) -> None:
        self._parent = parent_tool_use_id
        self._message_id: str | None = None
        self._open: int | None = None  # the block being streamed
        self._next = 0  # the block of an assistant line when none is being streamed
        self._unconfirmed: int | None = None  # the first block that was streamed and never finished

    def streamed(self, event: Json) -> Iterator[AgentEvent]:
        """Yield the events for a ``stream_event``, given the API's event in it."""
        match event.get("type"):
            case "message_start":
                message = event.get("message")
                yield from self._begin(message.get("id") if isinstance(message, dict) else None)
            case "content_block_start" if isinstance(index := event.get("index"), int):
                self._open = index
            case "content_block_delta" if isinstance(delta := event.get("delta"), dict):
                yield from self._delta(event.get("index"), delta)
            case "content_block_stop":
                self._open = None

    def finished(self, message: Json) -> Iterator[AgentEvent]:
        """Yield the events for an ``assistant`` line, given the message in it."""
        blocks = message.get("content")
        if not isinstance(blocks, list):
            return
        blocks = [block for block in blocks if isinstance(block, dict)]
        if message.get("id") != self._message_id:
            yield from self._begin(message.get("id"))
        index = self._next if self._open is None else self._open
        self._next = index + len(blocks)
        if self._unconfirmed is not None and index <= self._unconfirmed < self._next:
            self._unconfirmed = None
        yield self._message(index, blocks)
        for block in blocks:
            if block.get("type") == "tool_use" and isinstance(block.get("input"), dict):
                use = ToolUse(
                    type="tool_use",
                    tool_use_id=str(block.get("id")),
                    tool_name=str(block.get("name")),
                    input=block["input"],
                )
                if self._parent is not None:
                    use["parent_tool_use_id"] = self._parent
                yield use

    def _begin(self, message_id: Any) -> Iterator[AgentEvent]:
        if self._unconfirmed is not None:
            yield self._message(self._unconfirmed, [])
        self._message_id = message_id if isinstance(message_id, str) else None
        self._open = self._unconfirmed = None
        self._next = 0

    def _delta(self, index: Any, delta: Json) -> Iterator[AgentEvent]:
        if not isinstance(index, int):
            return
        address = self._address(index)
        match delta:
            case {"type": "text_delta", "text": str(text)}:
                yield Delta(type="delta", content=text, **address)
            case {"type": "thinking_delta", "thinking": str(text)}:
                yield Thinking(type="thinking", content=text, **address)
            case _:
                return
        if self._unconfirmed is None:
            self._unconfirmed = index

    def _message(self, index: int, blocks: list[dict[str, Any]]) -> Message:
        return Message(type="message", role="assistant", content=blocks, **self._address(index))

    def _address(self, index: int) -> _Address:
        address = _Address(index=index)
        if self._message_id is not None:
            address["message_id"] = self._message_id
        if self._parent is not None:
            address["parent_tool_use_id"] = self._parent
        return address

"""One speaker's messages, streamed and finished, as events that name their message and block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict, cast

from portico.core.events import AgentEvent, Delta, Message, Notice, Thinking, ToolUse

Json = Mapping[str, Any]


CUT = {"max_tokens": "max_tokens", "model_context_window_exceeded": "context_window"}
"""The notice for each reason of the API to stop in the middle of a message."""


def is_unfinished(given: Json) -> bool:
    """Tell whether the input of a tool use is JSON that breaks off: then the CLI gives (the start of) its text."""
    match given:
        case {"__unparsedToolInput": {"raw": str(text)}}:
            try:
                json.loads(text)
            except ValueError as error:
                return str(error).startswith("Unterminated") or getattr(error, "pos", 0) >= len(text.rstrip())
    return False


class Speaker(TypedDict, total=False):
    """The speaker, as members of an event: empty for the agent itself."""

    parent_tool_use_id: str
    subagent: str


class Address(Speaker, total=False):
    message_id: str
    index: int


class MessageStream:
    """The messages of the agent, or of one subagent. Sans-IO.

    The CLI gives a message twice: as the API's stream events, and as one ``assistant`` line for each finished block,
    which comes just before its ``content_block_stop`` and has no index of its own. A stream that breaks is requested
    again as a new message, often in one piece; then the streamed part of the old message is void.
    """

    def __init__(self, speaker: Speaker | None = None) -> None:
        self.speaker: Speaker = speaker if speaker is not None else Speaker()
        self._message_id: str | None = None
        self._open: int | None = None  # the block being streamed
        self._next = 0  # the block of an assistant line when none is being streamed
        self._unconfirmed: int | None = None  # the first block that was streamed and never finished
        self._tool_use: str | None = None  # the id of the last finished block, if that is a tool use

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
            case "message_delta" if isinstance(delta := event.get("delta"), dict):
                yield from self.cut(delta.get("stop_reason"))

    def finished(self, message: Json) -> Iterator[AgentEvent]:
        """Yield the events for an ``assistant`` line, given the message in it. The first one has its `Address`."""
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
        self._tool_use = str(blocks[-1].get("id")) if blocks and blocks[-1].get("type") == "tool_use" else None
        yield self._message(index, blocks)
        for block in blocks:
            if block.get("type") == "tool_use" and isinstance(block.get("input"), dict):
                use = ToolUse(
                    type="tool_use",
                    tool_use_id=str(block.get("id")),
                    tool_name=str(block.get("name")),
                    input=block["input"],
                )
                yield {**use, **self.speaker}
                if self.speaker and is_unfinished(use["input"]):  # of a subagent nothing else says so
                    yield from self.cut("max_tokens")

    def _begin(self, message_id: Any) -> Iterator[AgentEvent]:
        if self._unconfirmed is not None:
            yield self._message(self._unconfirmed, [])
        self._message_id = message_id if isinstance(message_id, str) else None
        self._open = self._unconfirmed = self._tool_use = None
        self._next = 0

    def cut(self, stop_reason: Any) -> Iterator[AgentEvent]:
        """Yield a notice if the API has cut the message: it names the setting, and the tool use that was cut."""
        if not isinstance(stop_reason, str) or (name := CUT.get(stop_reason)) is None:
            return
        detail: dict[str, Any] = {"setting": "max_tokens"} if name == "max_tokens" else {}
        detail |= self.speaker
        if self._message_id is not None:
            detail["message_id"] = self._message_id
        if self._tool_use is not None:
            detail["tool_use_id"] = self._tool_use
        yield Notice(type="notice", name=name, detail=detail)

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

    def _address(self, index: int) -> Address:
        address = cast(Address, {"index": index, **self.speaker})
        if self._message_id is not None:
            address["message_id"] = self._message_id
        return address

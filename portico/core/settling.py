"""The streamed parts of unfinished messages: each gets a `Message` in the end."""

from __future__ import annotations

from collections.abc import Iterable

from portico.core.events import Delta, EventBody, Message, Thinking

MAX_SPEAKERS = 64


class Streamed:
    """The last streamed block of each speaker of a turn: the agent, and its subagents."""

    def __init__(self) -> None:
        self._open: dict[str | None, Delta | Thinking] = {}

    def add(self, delta: Delta | Thinking) -> None:
        """Note a part of a block. Called for each one, so it does as little as can be."""
        self._open[delta.get("parent_tool_use_id")] = delta

    def finish(self, message: Message) -> None:
        """Note finished blocks, or blocks that were taken back."""
        speaker = message.get("parent_tool_use_id")
        begun = self._open.get(speaker)
        if begun is not None and _covers(message, begun):
            del self._open[speaker]
        elif len(self._open) > MAX_SPEAKERS:
            del self._open[next(iter(self._open))]

    def settle(self) -> list[EventBody]:
        """Return the messages that take back what was streamed and will not be finished.

        A part that names no message can't be taken back.
        """
        begun, self._open = self._open, {}
        return [_taken_back(delta) for delta in begun.values() if "message_id" in delta]


def unsettled(events: Iterable[EventBody]) -> list[EventBody]:
    """Return the messages that take back what ``events``, the last ones of a turn, leave unfinished."""
    streamed = Streamed()
    for event in events:
        if event["type"] == "delta" or event["type"] == "thinking":
            streamed.add(event)
        elif event["type"] == "message":
            streamed.finish(event)
    return streamed.settle()


def _covers(message: Message, delta: Delta | Thinking) -> bool:
    if message.get("message_id") != delta.get("message_id"):
        return False
    first, block = message.get("index", 0), delta.get("index", 0)
    blocks = len(message["content"])
    return first <= block and (not blocks or block < first + blocks)


def _taken_back(delta: Delta | Thinking) -> Message:
    message = Message(type="message", role="assistant", content=[])
    for name in ("message_id", "index", "parent_tool_use_id", "subagent"):
        if name in delta:
            message[name] = delta[name]
    return message

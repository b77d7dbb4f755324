"""The words and tools of the agent and of its subagents, as events. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portico.core.events import AgentEvent, Message, Notice, ToolResult
from portico.plugins.claude_code.cli_details import details
from portico.plugins.claude_code.notices import aside, error_notice, is_cut
from portico.plugins.claude_code.retractions import Retractions
from portico.plugins.claude_code.stream import MessageStream, Speaker

Json = dict[str, Any]

MAX_SPEAKERS = 64
"""Subagents whose messages are followed at once."""

FINAL = ("stop_sequence", "refusal")
"""The ``stop_reason`` of an API error after which the turn may end. After others it goes on."""


class Speech:
    """The messages of one CLI process, by speaker.

    ``failure`` is the line about an API error that the turn may end with, ``refusal`` the line that says why the model
    has declined; None if there was none in this turn.
    """

    def __init__(self, subagents: bool = True) -> None:
        """Without ``subagents`` what these say and do is left out."""
        self._with_subagents = subagents
        self.failure: Json | None = None
        self.refusal: Json | None = None
        self._streams: dict[str | None, MessageStream] = {}
        self._subagents: dict[str, Speaker] = {}  # by agent_id
        self._retractions = Retractions()

    def speaker(self, agent_id: Any) -> Speaker:
        """Return the subagent as members of an event; none if it is not known."""
        return self._subagents.get(str(agent_id), Speaker())

    def begun(self, line: Json) -> None:
        """Note the subagent that a ``system/task_started`` line is about."""
        parent, name = line.get("tool_use_id"), line.get("subagent_type")
        if isinstance(parent, str) and isinstance(name, str):
            self._note(parent, line.get("task_id"), name)

    def end_turn(self) -> None:
        """Forget the agent's own message: the next turn begins with another one."""
        self._streams.pop(None, None)
        self.failure = self.refusal = None

    def streamed(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the events for a ``stream_event`` line."""
        event = line.get("event")
        if isinstance(event, dict) and (self._with_subagents or line.get("parent_tool_use_id") is None):
            yield from self._stream(line).streamed(event)

    def said(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the events for an ``assistant`` line."""
        message = line.get("message")
        if not isinstance(message, dict):
            return
        if line.get("is_api_error_message"):
            yield from self._failed(line, message)
            return
        if not self._hears(line):
            return
        yield from self._went_on(line)
        yield from self.take_back(line.get("supersedes"))
        uuid = line.get("uuid")
        for event in self._stream(line).finished(message):
            if event["type"] == "message" and event["content"]:
                self._retractions.add(uuid, event)
            yield event

    def refused(self, line: Json) -> Iterator[Message]:
        """Yield the messages that a ``system`` line about a refusal takes back."""
        self.refusal = line
        yield from self.take_back(line.get("retracted_message_uuids"))

    def take_back(self, uuids: Any) -> Iterator[Message]:
        """Yield the messages that take back what the lines with these uuids said."""
        return self._retractions.take_back(uuids)

    def tool_results(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the tool results of a ``user`` line: its texts are the CLI's own notes to the model."""
        message = line.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        if line.get("isSynthetic") is True:
            yield from self._went_on(line)
            yield from self.take_back(line.get("retracted_message_uuids"))
            yield from aside(line, content)
            if line.get("parent_tool_use_id") is not None and self._hears(line) and is_cut(content):
                yield from self._stream(line).cut("max_tokens")
        blocks = content if isinstance(content, list) else []
        results = [block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_result"]
        speaker = self._speaker_of(line) if results else Speaker()
        for block in results if self._hears(line) else ():
            output = block.get("content")
            result = ToolResult(
                type="tool_result",
                tool_use_id=str(block.get("tool_use_id")),
                content=output if isinstance(output, str | list) else "",
                is_error=block.get("is_error") is True,
            )
            if len(results) == 1 and (known := details(line, result["tool_use_id"])) is not None:
                result["details"] = known
            yield {**result, **speaker}

    def went_on(self) -> Iterator[Notice]:
        """Yield a notice for the API error that the turn did not end with, if there was one."""
        failure, self.failure = self.failure, None
        if failure is not None:
            yield error_notice(failure)

    def _failed(self, line: Json, message: Json) -> Iterator[AgentEvent]:
        if line.get("parent_tool_use_id") is not None:
            return  # the subagent's tool result says it
        yield from self.went_on()
        if message.get("stop_reason") in FINAL:
            self.failure = line  # its text comes again in the result, which says whether the turn failed because of it
        else:
            yield error_notice(line)

    def _went_on(self, line: Json) -> Iterator[Notice]:
        if self.failure is not None and line.get("parent_tool_use_id") is None:
            yield from self.went_on()

    def _hears(self, line: Json) -> bool:
        if self._with_subagents or line.get("parent_tool_use_id") is None:
            return True
        self._speaker_of(line)  # it may ask for a permission
        return False

    def _speaker_of(self, line: Json) -> Speaker:
        parent = line.get("parent_tool_use_id")
        if not isinstance(parent, str):
            return Speaker()
        return self._note(parent, line.get("agent_id"), line.get("subagent_type"))

    def _note(self, parent: str, agent_id: Any, name: Any) -> Speaker:
        if not isinstance(agent_id, str):
            stream = self._streams.get(parent)
            return stream.speaker if stream is not None else Speaker(parent_tool_use_id=parent)
        speaker = self._subagents.get(agent_id)
        if speaker is None or (isinstance(name, str) and speaker.get("subagent") != name):
            speaker = Speaker(parent_tool_use_id=parent)
            if isinstance(name, str):
                speaker["subagent"] = name
            self._subagents[agent_id] = speaker
            _forget_oldest(self._subagents)
        return speaker

    def _stream(self, line: Json) -> MessageStream:
        parent = line.get("parent_tool_use_id")
        if not isinstance(parent, str):
            parent = None
        speaker = self._speaker_of(line) if parent is not None else None
        stream = self._streams.get(parent)
        if stream is None:
            stream = self._streams[parent] = MessageStream(speaker)
            _forget_oldest(self._streams)
        elif speaker is not None:
            stream.speaker = speaker
        return stream


def _forget_oldest(followed: dict[Any, Any]) -> None:
    if len(followed) > MAX_SPEAKERS:
        del followed[next(iter(followed))]

"""The CLI's stream-json protocol: lines in, events out, lines to send. Sans-IO: no clock, no process, no tasks.

Measured on CLI 2.1.330. The type of a line is read first, then its meaning for a turn. Lines that are not needed, of
unknown types, or not readable are ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any

from portico.core.agent import Decision, OwnTurn
from portico.core.events import (
    AgentMode,
    Complete,
    Content,
    ErrorEvent,
    Notice,
    PermissionRequest,
    PermissionWithdrawn,
    ToolResult,
)
from portico.plugins.claude_code.cli_failures import turn_failure
from portico.plugins.claude_code.cli_permissions import CliPermissions, permission_request
from portico.plugins.claude_code.content import user_line
from portico.plugins.claude_code.framer import Oversized
from portico.plugins.claude_code.items import Answered, Done, Item, Moved, Refused, Send, Taken
from portico.plugins.claude_code.lines import decode_line, encode_line
from portico.plugins.claude_code.mode_hook import MODES, reply
from portico.plugins.claude_code.stream import MessageStream

Json = dict[str, Any]

MAX_SPEAKERS = 64
"""Subagents whose messages are followed at once."""

PLAN = "plan"

USAGE = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class Protocol:
    """The protocol with one CLI process. ``ignored`` counts the lines that could not be read.

    ``conversation`` is the id of the conversation that the process starts with, ``mode`` is its permission mode, and
    ``allowed_modes`` are those that the operator allows.
    """

    def __init__(
        self, conversation: str, mode: str = "default", allowed_modes: Collection[str] = frozenset({"default"})
    ) -> None:
        self.ignored = 0
        self.heard = False  # whether it has taken a message, or begun a turn
        self._mine: str | None = None  # uuid of the message in flight
        self._started = False  # whether its turn has begun
        self._steered: set[str] = set()  # uuids of messages that wait for a turn to take them up
        self._conversation = conversation
        self._allowed_modes = allowed_modes
        self._mode = mode
        self._mode_before_plan = "default" if mode == PLAN else mode
        self._mode_told = True
        self._own = False  # a turn that the agent began by itself is open
        self._asking = False  # ... only to ask for a permission
        self._interrupts: set[str] = set()
        self._interrupt_again = False
        self._controls = 0
        self._permissions = CliPermissions()
        self._streams: dict[str | None, MessageStream] = {}
        self._subagents: dict[str, str] = {}  # agent_id -> parent_tool_use_id
        self._lost = False  # a line of this turn was too long, and may have been its result
        self._cost = 0.0
        self._cli_error: str | None = None
        self._why = ""

    @property
    def busy(self) -> bool:
        """Tell whether a turn is running: ours, or one of the agent's own."""
        return self._mine is not None or self._own

    def expects(self, uuid: str | None) -> bool:
        """Tell whether the end of the message ``uuid``, or (None) of a turn of the agent's own, is still to come."""
        return self._own if uuid is None else uuid == self._mine or uuid in self._steered

    def begin(
        self, uuid: str, content: Content, *, commands: bool = False, encoded: Sequence[bytes] | None = None
    ) -> bytes:
        """Return the line that starts a turn with ``content``. Raises `InvalidRequest`; see `user_line`."""
        line = user_line(uuid, content, commands=commands, encoded=encoded)
        self._take_on(uuid)
        return line

    def steer(
        self, uuid: str, content: Content, *, commands: bool = False, encoded: Sequence[bytes] | None = None
    ) -> bytes:
        """Return the line that sends ``content`` to the running turn. Raises `InvalidRequest`; see `user_line`.

        A turn that calls a tool takes it up after that (`Taken`). Otherwise the CLI begins a turn with it at the end of
        this one, however that ends (also by an interrupt); that turn then takes up further messages of this kind.
        """
        line = user_line(uuid, content, commands=commands, encoded=encoded)
        self._steered.add(uuid)
        return line

    def follow(self, uuid: str) -> None:
        """Follow the turn of the message ``uuid``, which was not taken up: its own turn begins, or has begun."""
        if uuid in self._steered:
            self._take_on(uuid)

    def _take_on(self, uuid: str) -> None:
        self._steered.discard(uuid)
        self._mine, self._started, self._interrupt_again, self._lost = uuid, False, False, False

    def forget_told(self) -> None:
        """Report the permission mode again: nobody heard the earlier report."""
        self._mode_told = False

    def interrupt(self) -> tuple[str, list[Item]]:
        """Return the id of the request to stop the running turn, and the items that go with it."""
        items: list[Item] = []
        for request_id in self._permissions if self._asking else ():
            # The CLI itself is idle, so its interrupt would not reach the background task that asks.
            items += self.answer(request_id, Decision("deny"), stop_reason="interrupted")
        request_id, line = self.control("interrupt")
        self._interrupts.add(request_id)
        return request_id, [*items, Send(line)]

    def control(self, subtype: str, **members: Any) -> tuple[str, bytes]:
        """Return the id of a control request, and its line. Raises `InvalidRequest`."""
        self._controls += 1
        request_id = f"portico-{self._controls}"
        request = {"type": "control_request", "request_id": request_id, "request": {"subtype": subtype, **members}}
        return request_id, encode_line(request)

    def answer(self, request_id: str, decision: Decision, *, stop_reason: str = "end_turn") -> list[Item]:
        """Answer a permission request. Raises `Conflict` (``already_resolved``) if nobody waits for the answer any
        more.
        """
        return [Send(self._permissions.answer(request_id, decision)), *self._stop_asking(stop_reason)]

    def receive(self, line: bytes) -> list[Item]:
        """Return the items that a line of the CLI means."""
        return self.take(decode_line(line))

    def take(self, message: Json | Oversized | None) -> list[Item]:
        """Do the same for a decoded line; None means that it can't be read."""
        if isinstance(message, Oversized):
            return self.dropped(message)
        if message is None:
            self.ignored += 1
            return []
        return list(self._take(message))

    def dropped(self, line: Oversized) -> list[Item]:
        """Return the items for a line that was too long to be read."""
        self._lost = True
        text = f"The agent said something too long, {line.size} bytes in one piece: it was left out."
        items: list[Item] = [ErrorEvent(type="error", error=text, code="agent_line_too_long")]
        # For our own messages more lines follow (see `_lifecycle`). Inside a string the quotes would be escaped.
        if self._mine is None and self._own and b'"type":"result"' in line.tail:
            items += self._done(None, _empty("end_turn"))
        return items

    def _take(self, message: Json) -> Iterator[Item]:
        match message.get("type"):
            case "stream_event" if isinstance(event := message.get("event"), dict):
                yield from self._stream(message).streamed(event)
            case "assistant" if isinstance(said := message.get("message"), dict):
                yield from self._assistant(message, said)
            case "user" if isinstance(said := message.get("message"), dict):
                yield from self._tool_results(message, said)
            case "system":
                yield from self._system(message)
            case "result":
                yield from self._result(message)
            case "command_lifecycle":
                yield from self._lifecycle(message)
            case "control_request" if isinstance(request := message.get("request"), dict):
                yield from self._request(str(message.get("request_id")), request)
            case "control_cancel_request":
                yield from self._withdrawn(message.get("request_id"))
            case "control_response" if isinstance(response := message.get("response"), dict):
                yield from self._answered(response)
            case "rate_limit_event":
                yield Notice(type="notice", name="rate_limit", detail=message.get("rate_limit_info"))

    # --- what is said

    def _stream(self, message: Json) -> MessageStream:
        parent = message.get("parent_tool_use_id")
        parent = parent if isinstance(parent, str) else None
        if isinstance(agent := message.get("agent_id"), str) and parent is not None:
            self._subagents[agent] = parent
            _forget_oldest(self._subagents)
        if parent not in self._streams:
            self._streams[parent] = MessageStream(parent)
            _forget_oldest(self._streams)
        return self._streams[parent]

    def _assistant(self, message: Json, said: Json) -> Iterator[Item]:
        if not message.get("is_api_error_message"):
            yield from self._stream(message).finished(said)
        elif message.get("parent_tool_use_id") is None:
            # Its text comes again in the result, which says whether the turn failed because of it.
            self._cli_error = str(message.get("error"))

    def _tool_results(self, message: Json, said: Json) -> Iterator[Item]:
        """Yield the tool results of a ``user`` line: its texts are the CLI's own notes to the model."""
        content = said.get("content")
        parent = message.get("parent_tool_use_id")
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict) and block.get("type") == "tool_result":
                output = block.get("content")
                result = ToolResult(
                    type="tool_result",
                    tool_use_id=str(block.get("tool_use_id")),
                    content=output if isinstance(output, str | list) else "",
                    is_error=block.get("is_error") is True,
                )
                if isinstance(parent, str):
                    result["parent_tool_use_id"] = parent
                yield result

    def _system(self, message: Json) -> Iterator[Item]:
        match message.get("subtype"):
            case "init":
                yield from self._turn_begins(message)
                yield from self._mode_is(message)
            case "status":
                yield from self._mode_is(message)
            case "task_notification":
                self._why = str(message.get("summary") or "")
            case "api_retry":
                names = ("attempt", "max_retries", "retry_delay_ms", "error_status", "error")
                yield Notice(type="notice", name="api_retry", detail={n: message[n] for n in names if n in message})
            case "compact_boundary":
                yield Notice(type="notice", name="compacted", detail=message.get("compact_metadata"))
            case "informational":
                yield Notice(type="notice", name="informational", detail=message.get("content"))

    def _mode_is(self, message: Json) -> Iterator[Item]:
        mode = message.get("permissionMode")
        if not isinstance(mode, str):
            return
        mode = MODES.get(mode, mode)
        if mode == PLAN != self._mode:
            self._mode_before_plan = self._mode
        if mode != self._mode or not self._mode_told:
            self._mode, self._mode_told = mode, True
            yield AgentMode(type="permission_mode", permission_mode=mode)

    # --- turns

    def _lifecycle(self, message: Json) -> Iterator[Item]:
        self.heard = True
        uuid, state = message.get("command_uuid"), message.get("state")
        if isinstance(uuid, str) and uuid in self._steered and state != "queued":
            yield from self._steered_on(uuid, state)
        if self._mine is None or uuid != self._mine:
            return
        match state:
            case "started":
                self._started = True
            # These come after the result. Without a result, the message was withdrawn before it began, or the result
            # was too long. (A message that a running turn took in is completed before its result, but not cancelled.)
            case "cancelled" | "discarded" | "refused":
                yield from self._done(self._mine, _empty("interrupted"))
            case "completed" if self._lost:
                yield from self._done(self._mine, _empty("end_turn"))

    def _steered_on(self, uuid: str, state: Any) -> Iterator[Item]:
        if state != "started":
            self._steered.discard(uuid)
            yield Refused(uuid)
        elif self.busy:
            self._steered.discard(uuid)
            yield Taken(uuid)
        else:
            self._take_on(uuid)

    def _turn_begins(self, message: Json) -> Iterator[Item]:
        self.heard = True
        conversation = message.get("session_id")
        if isinstance(conversation, str) and conversation != self._conversation:
            # After a /clear. (The `conversation_reset` line before it names another id, which can't be resumed.)
            self._conversation = conversation
            yield Moved(conversation)
        if self._mine is not None:
            # An interrupt from before the turn began was accepted, but has stopped nothing.
            if self._interrupt_again and self._mine in (message.get("user_message_uuids") or ()):
                self._interrupt_again = False
                yield Send(self.control("interrupt")[1])
        elif not self._own:
            self._own = True
            yield OwnTurn(self._why or "The agent goes on by itself.")
        self._why, self._asking = "", False

    def _result(self, message: Json) -> Iterator[Item]:
        if not self.heard:
            return  # "No conversation found": the process is about to end
        uuids = message.get("user_message_uuids")
        origin = message.get("origin")
        if isinstance(uuids, list):
            ours = self._mine in uuids
        else:
            ours = self._started and not (isinstance(origin, dict) and "kind" in origin)
        cost = self._cost_since_last(message)
        usage = message.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        stop_reason = yield from self._stop_reason(message)
        self._cli_error = None
        complete = Complete(
            type="complete",
            stop_reason=stop_reason,
            usage={name: usage[name] for name in USAGE if isinstance(usage.get(name), int)},
            cost_usd=cost,
        )
        if self._mine is not None and ours:
            yield from self._done(self._mine, complete)
        elif self._own or self._mine is not None:
            yield from self._done(None, complete)

    def _stop_reason(self, result: Json) -> Generator[Item, None, str]:
        """Yield the error, if there was one; return the reason why the turn stopped."""
        reason = result.get("stop_reason")
        if result.get("is_error") is not True:
            return reason if isinstance(reason, str) and reason != "tool_use" else "end_turn"
        if str(result.get("terminal_reason")).startswith("aborted"):
            return "interrupted"
        if result.get("subtype") == "error_max_turns":
            return "max_turns"
        if self.busy:
            code, text = turn_failure(result, self._cli_error)
            yield ErrorEvent(type="error", error=text, code=code)
        return "refusal" if reason == "refusal" else "error"

    def _done(self, uuid: str | None, complete: Complete) -> Iterator[Item]:
        """End a turn. A permission request that a background agent still waits for moves into a turn of its own."""
        waiting = self._permissions.take_all()
        for request_id in waiting:
            yield PermissionWithdrawn(type="permission_withdrawn", request_id=request_id)
        yield Done(uuid, complete)
        self._own = self._asking = False
        self._streams.pop(None, None)
        if uuid is not None:
            self._mine, self._started = None, False
        for cli_id, event in waiting.values():
            yield from self._ask(cli_id, event)

    def _cost_since_last(self, result: Json) -> float:
        """Return the cost since the last result.

        ``total_cost_usd`` is cumulative, and a resumed process continues from where the last one ended, if that ended
        well (after a SIGKILL it begins at 0). So the difference is used only if the CLI does not report the cost
        itself.
        """
        total = result.get("total_cost_usd")
        total = float(total) if isinstance(total, int | float) else self._cost
        before, self._cost = self._cost, total
        models = result.get("model_usage_since_last_result")
        if isinstance(models, dict):
            costs = (model.get("costUSD") for model in models.values() if isinstance(model, dict))
            return float(sum(cost for cost in costs if isinstance(cost, int | float)))
        return max(0.0, total - before)

    # --- control

    def _request(self, cli_id: str, request: Json) -> Iterator[Item]:
        if (line := reply(cli_id, request, self._allowed_modes)) is not None:
            yield Send(line)
            return
        after_plan = self._mode_before_plan if self._mode == PLAN else self._mode
        event = permission_request(request, self._subagents.get(str(request.get("agent_id"))), after_plan)
        if event is not None:
            yield from self._ask(cli_id, event)
        else:  # the CLI waits for an answer: refuse requests that are not known
            error = {"subtype": "error", "request_id": cli_id, "error": "not supported"}
            yield Send(encode_line({"type": "control_response", "response": error}))

    def _ask(self, cli_id: str, event: PermissionRequest) -> Iterator[Item]:
        if not self.busy:
            self._own = self._asking = True
            yield OwnTurn(f"A background task asks for permission to use {event['tool_name']}.")
        yield self._permissions.ask(cli_id, event)

    def _withdrawn(self, cli_id: Any) -> Iterator[Item]:
        for request_id in self._permissions.withdraw(cli_id):
            yield PermissionWithdrawn(type="permission_withdrawn", request_id=request_id)
            yield from self._stop_asking("end_turn")

    def _stop_asking(self, stop_reason: str) -> Iterator[Item]:
        """End a turn that was opened only to ask, once the last request is answered."""
        if self._asking and not self._permissions:
            yield from self._done(None, _empty(stop_reason))

    def _answered(self, response: Json) -> Iterator[Item]:
        request_id = str(response.get("request_id"))
        details = response.get("response")
        if request_id in self._interrupts and isinstance(details, dict):
            self._interrupt_again = self._mine in (details.get("still_queued") or ())
        self._interrupts.discard(request_id)
        failed = response.get("subtype") != "success"
        yield Answered(request_id, str(response.get("error")) if failed else None)


def _empty(stop_reason: str) -> Complete:
    return Complete(type="complete", stop_reason=stop_reason, usage={}, cost_usd=0.0)


def _forget_oldest(followed: dict[Any, Any]) -> None:
    if len(followed) > MAX_SPEAKERS:
        del followed[next(iter(followed))]

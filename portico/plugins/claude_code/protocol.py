"""The CLI's stream-json protocol: lines in, events out, lines to send. Sans-IO: no clock, no process, no tasks.

Measured on CLI 2.1.330. The type of a line is read first, then its meaning for a turn. Lines that are not needed, of
unknown types, or not readable are ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from portico.core.agent import Decision, OwnTurn, Suggestion
from portico.core.events import (
    AgentEvent,
    Complete,
    Content,
    ErrorEvent,
    PermissionRequest,
    PermissionWithdrawn,
    unused,
)
from portico.core.prices import LIST_PRICES, PriceTable
from portico.plugins.claude_code.cli_permissions import CliPermissions, permission_request
from portico.plugins.claude_code.cli_schedules import CliSchedules
from portico.plugins.claude_code.cli_tasks import CliTasks
from portico.plugins.claude_code.condition import Condition
from portico.plugins.claude_code.content import user_line
from portico.plugins.claude_code.framer import Oversized
from portico.plugins.claude_code.items import Answered, Done, Item, Moved, Refused, Send, Taken
from portico.plugins.claude_code.lines import decode_line, encode_line
from portico.plugins.claude_code.mode_hook import reply
from portico.plugins.claude_code.notices import Notices
from portico.plugins.claude_code.results import NO_OUTPUT, Results, lacks_output
from portico.plugins.claude_code.speech import Speech

Json = dict[str, Any]

OUTPUT_TOOL = "StructuredOutput"
"""The tool with which the model returns what fits the output schema. The CLI has it only with a schema that it can use.
"""

SCHEMA_REFUSED = (
    "The agent can't use this output_schema: it takes a JSON Schema of draft 7 without unknown keywords or references. "
    "And it needs the tool StructuredOutput."
)


class Protocol:
    """The protocol with one CLI process. ``ignored`` counts the lines that could not be read.

    ``conversation`` is the id of the conversation that the process starts with, ``mode`` is its permission mode,
    ``model`` its model (None: its own choice), and ``allowed_modes`` are those that the operator allows. It is
    ``structured`` if the CLI was given an output schema.
    """

    def __init__(
        self,
        conversation: str,
        mode: str = "default",
        allowed_modes: Collection[str] = frozenset({"default"}),
        model: str | None = None,
        *,
        prices: PriceTable = LIST_PRICES,
        subagents: bool = True,
        resumed: bool = False,
        structured: bool = False,
    ) -> None:
        self.ignored = 0
        self.heard = False  # whether it has taken a message, or begun a turn
        self._mine: str | None = None  # uuid of the message in flight
        self._started = False  # whether its turn has begun
        self._steered: set[str] = set()  # uuids of messages that wait for a turn to take them up
        self._conversation = conversation
        self._allowed_modes = allowed_modes
        self._structured = structured
        self._schema_refused = False  # the CLI can't use the output schema, so the turn is being stopped
        self._condition = Condition(mode, model)
        self._speech = Speech(subagents)
        self._results = Results(prices, resumed=resumed)
        self._notices = Notices()
        self._own = False  # a turn that the agent began by itself is open
        self._asking = False  # ... only to ask for a permission
        self._interrupts: set[str] = set()
        self._interrupt_again = False
        self._controls = 0
        self._permissions = CliPermissions()
        self._tasks = CliTasks()
        self._schedules = CliSchedules()
        self._lost = False  # a line of this turn was too long, and may have been its result
        self._why = ""

    @property
    def busy(self) -> bool:
        """Tell whether a turn is running: ours, or one of the agent's own."""
        return self._mine is not None or self._own

    def part(self, usage: Any) -> Complete:
        """Return what was used since the last result. See `Spending.part`."""
        return self._results.part(usage)

    def expects(self, uuid: str | None) -> bool:
        """Tell whether the end of the message ``uuid``, or (None) of a turn of the agent's own, is still to come."""
        return self._own if uuid is None else uuid == self._mine or uuid in self._steered

    def begin(
        self, uuid: str, content: Content, *, commands: bool = False, encoded: Sequence[bytes] | None = None
    ) -> bytes:
        """Return the line that starts a turn with ``content``. Raises `InvalidRequest`; see `user_line`."""
        line = user_line(uuid, content, commands=commands, encoded=encoded)
        self._condition.unsure = self._condition.unsure or commands
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
        self._schema_refused = False

    @property
    def model(self) -> str | None:
        """The model in force, as far as it was reported, or the one that was set since."""
        return self._condition.model

    def set_model(self, model: str | None) -> None:
        """Note that the CLI has accepted ``model``."""
        self._condition.set_model(model)

    def model_settled(self) -> bool:
        """Tell whether the model is still the one that was reported; ask only once for the answer `model_found`."""
        unsure, self._condition.unsure = self._condition.unsure, False
        return not unsure

    def model_found(self, settings: Mapping[str, Any]) -> Iterator[AgentEvent]:
        """Yield the change that the answer to ``get_settings`` reports."""
        applied = settings.get("applied")
        yield from self._condition.model_is(applied.get("model") if isinstance(applied, dict) else None)

    def forget_told(self) -> None:
        """Report the permission mode and the model again: nobody heard the earlier report."""
        self._condition.forget_told()

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

    def answer(
        self, request_id: str, decision: Decision, *, rules: bool = True, stop_reason: str = "end_turn"
    ) -> list[Item]:
        """Answer a permission request; without ``rules`` the CLI must be given by other means what it `remembered`.

        Raises `Conflict` (``already_resolved``) if nobody waits for the answer any more.
        """
        return [Send(self._permissions.answer(request_id, decision, rules=rules)), *self._stop_asking(stop_reason)]

    def remembered(self, request_id: str, decision: Decision) -> Sequence[Suggestion]:
        """Return the rules and folders that an answer remembers, if the request still waits."""
        return self._permissions.remembered(request_id, decision)

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
            items += self._done(None, unused("end_turn"))
        return items

    def _take(self, message: Json) -> Iterator[Item]:
        match message.get("type"):
            case "stream_event":
                yield from self._speech.streamed(message)
            case "assistant":
                # A command of the CLI's own, such as /model: what it changes shows only in the next turn's `init`.
                self._condition.unsure = self._condition.unsure or "local_command_source" in message
                yield from self._schedules.reported(message)
                yield from self._speech.said(message)
            case "user":
                yield from self._schedules.reported(message)
                yield from self._speech.tool_results(message)
            case "system":
                yield from self._system(message)
            case "result":
                yield from self._result(message)
            case "command_lifecycle":
                yield from self._schedules.reported(message)
                yield from self._lifecycle(message)
            case "control_request" if isinstance(request := message.get("request"), dict):
                yield from self._request(str(message.get("request_id")), request)
            case "control_cancel_request":
                yield from self._withdrawn(message.get("request_id"))
            case "control_response" if isinstance(response := message.get("response"), dict):
                yield from self._answered(response)
            case "tombstone" if isinstance(gone := message.get("message"), dict):
                yield from self._speech.take_back([gone.get("uuid")])
            case "rate_limit_event" | "conversation_reset":
                yield from self._notices.of(message)

    def _system(self, message: Json) -> Iterator[Item]:
        match message.get("subtype"):
            case "init":
                yield from self._turn_begins(message)
                yield from self._condition.reported(message)
                yield from self._check_schema(message)
            case "status":
                yield from self._condition.reported(message)
            case "task_started":
                self._speech.begun(message)
            case "model_fallback":
                yield from self._condition.fell_back(message)
            case "task_notification":
                self._why = str(message.get("summary") or "")
            case "model_refusal_fallback" | "model_refusal_no_fallback":
                yield from self._speech.refused(message)
                yield from self._condition.fell_back(message)
        yield from self._notices.of(message)
        yield from self._tasks.reported(message)

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
                yield from self._done(self._mine, unused("interrupted"))
            case "completed" if self._lost:
                yield from self._done(self._mine, unused("end_turn"))

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

    def _check_schema(self, init: Json) -> Iterator[Item]:
        """Stop our turn if the CLI has no tool to return what fits the output schema: it says nothing else of that."""
        tools = init.get("tools")
        if not self._structured or self._mine is None or self._schema_refused or OUTPUT_TOOL in (tools or ()):
            return
        self._schema_refused = True
        yield ErrorEvent(type="error", error=SCHEMA_REFUSED, code="output_schema_refused")
        yield from self.interrupt()[1]

    def _result(self, message: Json) -> Iterator[Item]:
        if not self.heard:
            return  # "No conversation found": the process is about to end
        uuids = message.get("user_message_uuids")
        origin = message.get("origin")
        if isinstance(uuids, list):
            ours = self._mine in uuids
        else:
            ours = self._started and not (isinstance(origin, dict) and "kind" in origin)
        error, complete = self._results.completed(message, self._speech.failure, self._speech.refusal)
        if self._schema_refused:
            error, complete["stop_reason"] = None, "error"
        elif self._structured and ours and lacks_output(message, complete):
            error, complete["stop_reason"] = NO_OUTPUT, "error"
        if error is None:
            yield from self._speech.went_on()
        elif self.busy:
            yield error
        if self._mine is not None and ours:
            yield from self._done(self._mine, complete)
        elif self._own or self._mine is not None:
            yield from self._done(None, complete)
        else:
            self._results.keep(complete)

    def _done(self, uuid: str | None, complete: Complete) -> Iterator[Item]:
        """End a turn. A permission request that a background agent still waits for moves into a turn of its own."""
        waiting = self._permissions.take_all()
        for request_id in waiting:
            yield PermissionWithdrawn(type="permission_withdrawn", request_id=request_id)
        yield Done(uuid, complete)
        self._own = self._asking = False
        self._speech.end_turn()
        if uuid is not None:
            self._mine, self._started = None, False
        for cli_id, event in waiting.values():
            yield from self._ask(cli_id, event)

    # --- control

    def _request(self, cli_id: str, request: Json) -> Iterator[Item]:
        if (line := reply(cli_id, request, self._allowed_modes)) is not None:
            yield Send(line)
            return
        speaker = self._speech.speaker(request.get("agent_id"))
        event = permission_request(request, speaker, self._condition.mode_after_plan)
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
            yield from self._done(None, unused(stop_reason))

    def _answered(self, response: Json) -> Iterator[Item]:
        request_id = str(response.get("request_id"))
        details = response.get("response")
        if request_id in self._interrupts and isinstance(details, dict):
            self._interrupt_again = self._mine in (details.get("still_queued") or ())
        self._interrupts.discard(request_id)
        failed = response.get("subtype") != "success"
        yield Answered(
            request_id,
            str(response.get("error")) if failed else None,
            details if isinstance(details, dict) else {},
        )

"""The events of a session, as they go over the wire.

An agent yields `AgentEvent`s: plain dictionaries whose shapes are the TypedDicts below. The feed adds their common
members (``session_id``, ``seq``, ``time``, ``turn_id``), and encodes each one once, as an `Event`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic makes schemas of these, and needs it before Python 3.12

from portico.core.schedule_event import Schedule
from portico.core.state import State
from portico.core.task_event import Task
from portico.core.tool_details import ToolDetails, Why
from portico.core.usage import CostBasis, ModelUsage, UsageByModel, cost, least_certain, tokens

Content = str | list[dict[str, Any]]
"""Text, or a list of Messages API content blocks."""


class Head(TypedDict):
    """The members that all events have. ``seq`` counts 1, 2, 3 ... in each session; ``time`` is RFC 3339 in UTC.

    Events of a subagent also have ``parent_tool_use_id``, the tool use that started it, and ``subagent``, its name.
    """

    type: str
    session_id: str
    seq: int
    time: str
    turn_id: NotRequired[str]


class Delta(TypedDict):
    """New text of the content block ``index`` of the message ``message_id``."""

    type: Literal["delta"]
    content: str
    message_id: NotRequired[str]
    index: NotRequired[int]
    parent_tool_use_id: NotRequired[str]
    subagent: NotRequired[str]


class Thinking(TypedDict):
    """New thinking text, addressed as in `Delta`."""

    type: Literal["thinking"]
    content: str
    message_id: NotRequired[str]
    index: NotRequired[int]
    parent_tool_use_id: NotRequired[str]
    subagent: NotRequired[str]


class Message(TypedDict):
    """The finished blocks of a message, from block ``index`` on. They replace the text streamed for them before.

    Without ``content`` the message is taken back from block ``index`` on.
    """

    type: Literal["message"]
    role: Literal["assistant", "user"]
    content: list[dict[str, Any]]
    message_id: NotRequired[str]
    index: NotRequired[int]
    parent_tool_use_id: NotRequired[str]
    subagent: NotRequired[str]


class ToolUse(TypedDict):
    """The use of a tool by the agent, once the input is complete."""

    type: Literal["tool_use"]
    tool_use_id: str
    tool_name: str
    input: dict[str, Any]
    parent_tool_use_id: NotRequired[str]
    subagent: NotRequired[str]


class ToolResult(TypedDict):
    """The result that a tool has returned. ``details`` has what the agent knows of it in a structured form."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Content
    is_error: bool
    details: NotRequired[ToolDetails]
    parent_tool_use_id: NotRequired[str]
    subagent: NotRequired[str]


class Choice(TypedDict):
    """One of the answers that a question offers. ``preview`` shows what it would lead to."""

    label: str
    description: NotRequired[str]
    preview: NotRequired[str]


class Question(TypedDict):
    """A question of the agent. It takes one answer or, with ``multi_select``, several; text of one's own is one too."""

    question: str
    header: NotRequired[str]
    options: list[Choice]
    multi_select: bool


RequestKind = Literal["tool", "question", "plan", "elicitation"]


class PermissionRequest(TypedDict):
    """A request for permission to use a tool; the agent waits for it. The session sets ``expires_at`` (RFC 3339).

    Some requests ask for more than permission: ``kind`` is ``question`` (``questions`` of the agent), ``plan`` (the
    plan, whose text is ``plan``, is to be approved), or ``elicitation`` (the MCP server ``mcp_server`` asks for data
    that fit the JSON Schema ``schema``, or wants the user to open ``url``; ``message`` says why). All others are
    ``tool``, as is a request without ``kind``.

    ``permission_mode`` is the mode to which the agent changes once the request is allowed, if it changes. ``why`` says
    why the tool needs permission.
    """

    type: Literal["permission_request"]
    request_id: str
    tool_name: str
    input: dict[str, Any]
    kind: NotRequired[RequestKind]
    questions: NotRequired[list[Question]]
    plan: NotRequired[str]
    mcp_server: NotRequired[str]
    message: NotRequired[str]
    schema: NotRequired[dict[str, Any]]
    url: NotRequired[str]
    tool_use_id: NotRequired[str]
    why: NotRequired[Why]
    suggestions: NotRequired[list[dict[str, Any]]]
    permission_mode: NotRequired[str]
    expires_at: NotRequired[str]
    parent_tool_use_id: NotRequired[str]
    subagent: NotRequired[str]


def kind_of(request: PermissionRequest) -> RequestKind:
    return request.get("kind", "tool")


def asks_a_person(request: PermissionRequest) -> bool:
    """Tell whether a request asks for more than permission, so that only a person can answer it."""
    return kind_of(request) != "tool"


class PermissionWithdrawn(TypedDict):
    """The withdrawal of a request by the agent. Clients see a ``permission_resolved`` event instead."""

    type: Literal["permission_withdrawn"]
    request_id: str


class PermissionResolved(TypedDict):
    """The end of a permission request. ``principal`` is the caller who answered it, if one did.

    ``not_allowed``: the agent asked in a permission mode that the operator does not allow.
    """

    type: Literal["permission_resolved"]
    request_id: str
    behavior: Literal["allow", "deny"]
    principal: NotRequired[str]
    reason: Literal["answered", "timeout", "interrupted", "agent_exited", "not_allowed"]


class AgentMode(TypedDict):
    """The agent's new permission mode. Clients see a ``session`` event instead."""

    type: Literal["permission_mode"]
    permission_mode: str


class AgentModel(TypedDict):
    """The model that answers from now on. Clients see a ``session`` event instead."""

    type: Literal["model"]
    model: str


class Notice(TypedDict):
    """Information that changes nothing: ``api_retry``, ``rate_limit``, ``compacted``, ..."""

    type: Literal["notice"]
    name: str
    detail: Any


class ErrorEvent(TypedDict):
    """An error in a turn: ``error`` is for people, ``code`` is stable."""

    type: Literal["error"]
    error: str
    code: str


class Complete(TypedDict):
    """The end of a turn. ``usage`` (tokens) and ``cost_usd`` are of this turn, all models together.

    ``usage_by_model`` has the same by model; the agent may leave it out. The session sets ``duration_ms``.

    ``structured_output`` is an object that fits the ``output_schema``, if there is one and the agent has returned it.
    """

    type: Literal["complete"]
    stop_reason: str
    usage: dict[str, Any]
    usage_by_model: NotRequired[dict[str, ModelUsage]]
    cost_usd: float
    cost_basis: NotRequired[CostBasis]
    duration_ms: NotRequired[int]
    structured_output: NotRequired[dict[str, Any]]


def unused(stop_reason: str, *, known: bool = True) -> Complete:
    """Return the end of a turn that has used no tokens and no time, or (not ``known``) whose agent has not said it."""
    return Complete(
        type="complete",
        stop_reason=stop_reason,
        usage={},
        usage_by_model={},
        cost_usd=0.0,
        cost_basis="reported" if known else "unknown",
        duration_ms=0,
    )


def with_usage(complete: Complete, usage: UsageByModel) -> Complete:
    """Return the end of a turn with this usage, and the sums of it."""
    return {
        **complete,
        "usage": tokens(usage),
        "usage_by_model": dict(usage),
        "cost_usd": cost(usage),
        "cost_basis": least_certain(model["cost_basis"] for model in usage.values()),
    }


class Query(TypedDict):
    """The user's message, once accepted. ``principal`` is null for a turn that the agent started by itself."""

    type: Literal["query"]
    content: Content
    principal: str | None


class SessionChange(TypedDict):
    """A change of a session's state, or of its ``permission_mode``, ``model`` or ``permission_rules``."""

    type: Literal["session"]
    state: State
    reason: NotRequired[str]
    permission_mode: NotRequired[str]
    model: NotRequired[str | None]
    permission_rules: NotRequired[list[dict[str, Any]]]
    forked_from: NotRequired[str]


AgentEvent = (
    Delta
    | Thinking
    | Message
    | ToolUse
    | ToolResult
    | PermissionRequest
    | PermissionWithdrawn
    | AgentMode
    | AgentModel
    | Notice
    | Task
    | Schedule
    | ErrorEvent
    | Complete
)
"""The events that an agent may yield in a turn. `Complete` ends the turn."""

Aside = Task | Schedule | Message | ToolUse | ToolResult
"""The events that an agent may also have between two turns; the last three are of subagents in the background."""

EventBody = AgentEvent | PermissionResolved | Query | SessionChange


class Gap(TypedDict):
    """A gap, where history was deleted: the next event is ``min_seq``. A gap is not an event, so it has no ``seq``."""

    type: Literal["gap"]
    session_id: str
    after: int
    min_seq: int


WRITTEN = (
    *(SessionChange, Query, Delta, Thinking, Message, ToolUse, ToolResult, PermissionRequest, PermissionResolved),
    *(Notice, Task, Schedule, ErrorEvent, Complete),
)
"""The bodies that go into a history, each behind a `Head`."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that has no place in the history yet. ``content`` is the JSON of the body's ``content``, if encoded."""

    body: EventBody
    turn_id: str | None = None
    content: Sequence[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One immutable fact of a session. ``data`` is its JSON: the same bytes for every reader, for ever."""

    seq: int
    type: str
    turn_id: str | None
    data: bytes


_OF_SUBAGENTS = frozenset({"delta", "thinking", "message", "tool_use", "tool_result"})


def of_subagent(event: Event) -> bool:
    """Tell whether this is what a subagent says or does. A request for permission is not: somebody has to answer it."""
    if event.type not in _OF_SUBAGENTS or b'"parent_tool_use_id"' not in event.data:
        return False
    return "parent_tool_use_id" in json.loads(event.data)  # the bytes may be in the input of a tool


def first_of(events: Sequence[Event], max_bytes: int) -> Sequence[Event]:
    """Return the first of ``events``: at most ``max_bytes`` of them, but at least one if there is any."""
    size = 0
    for count, event in enumerate(events):
        size += len(event.data)
        if size > max_bytes and count:
            return events[:count]
    return events


# Some readers of lines (Python's str.splitlines) take these as line breaks, and would tear an event apart.
_LINE_BREAKS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def encode_json(value: Any) -> bytes:
    """Encode as compact UTF-8 JSON.

    An agent's text may hold half of a surrogate pair (JavaScript cuts strings anywhere), which UTF-8 cannot represent:
    such a value is encoded with escapes instead. Raises ValueError for NaN and infinities, which JSON does not have.
    """
    text = _encode(value)
    if not text.isascii():
        for line_break, escape in _LINE_BREAKS.items():
            text = text.replace(line_break, escape)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def event_members(session_id: str, seq: int, time: str, draft: Draft) -> dict[str, Any]:
    """Return the members of ``draft`` with its place in the history."""
    head = Head(type=draft.body["type"], session_id=session_id, seq=seq, time=time)
    if draft.turn_id is not None:
        head["turn_id"] = draft.turn_id
    return {**head, **draft.body}


def encode_event(session_id: str, seq: int, time: str, draft: Draft) -> Event:
    """Give ``draft`` its place in the history, and encode it."""
    members = event_members(session_id, seq, time, draft)
    kind = draft.body["type"]
    if draft.content is None:
        return Event(seq, kind, draft.turn_id, encode_json(members))
    del members["content"]
    start = encode_json(members)[:-1]
    return Event(seq, kind, draft.turn_id, b"".join([start, b',"content":', *draft.content, b"}"]))


def gap_event(session_id: str, after: int, min_seq: int) -> Event:
    """Return an event that says that the history between ``after`` and ``min_seq`` was deleted.

    It has no place in the history. Its ``seq`` is that of the last deleted event, behind which reading goes on.
    """
    body = Gap(type="gap", session_id=session_id, after=after, min_seq=min_seq)
    return Event(min_seq - 1, "gap", None, encode_json(body))

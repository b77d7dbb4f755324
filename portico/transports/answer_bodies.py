"""The shapes of the server's answers, apart from sessions and events."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from portico.core.abilities import CommandInfo, McpServer, ModelInfo
from portico.core.requests import SessionView, TurnState


class SessionPage(TypedDict):
    """One page of sessions. ``next_cursor`` leads to the next page; null on the last one."""

    sessions: list[SessionView]
    next_cursor: str | None


class TurnAnswer(TypedDict):
    """An accepted turn."""

    turn_id: str
    session_id: str
    state: TurnState


class CommandList(TypedDict):
    commands: list[CommandInfo]


class ModelList(TypedDict):
    driver: str
    models: list[ModelInfo]


class McpList(TypedDict):
    servers: list[McpServer]


class PermissionAnswer(TypedDict):
    request_id: str
    behavior: Literal["allow", "deny"]


class TicketAnswer(TypedDict):
    """``expires_at`` is RFC 3339 in UTC."""

    ticket: str
    expires_at: str


class Health(TypedDict):
    """The server works. ``failed`` lists, by name, the parts that do not, though the server can do without them."""

    status: Literal["ok"]
    failed: NotRequired[dict[str, str]]


class Mistake(TypedDict):
    """One wrong value. ``loc`` is the path to it; ``msg`` is for people; ``type`` is the kind of mistake."""

    loc: list[int | str]
    msg: str
    type: str


class Problem(TypedDict):
    """A problem document (RFC 9457). ``code`` is stable; ``detail`` is for people. There may be further members."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: NotRequired[list[Mistake]]
    reasons: NotRequired[list[str]]


class Ack(TypedDict):
    """A frame was accepted. ``id`` is that frame's; a query's answer also has ``turn_id`` and ``state``."""

    type: Literal["ack"]
    id: NotRequired[str | int]
    turn_id: NotRequired[str]
    state: NotRequired[TurnState]


class Nack(TypedDict):
    """A frame was refused; ``code`` and ``status`` as in a problem document. There may be further members."""

    type: Literal["nack"]
    error: str
    code: str
    status: int
    id: NotRequired[str | int]
    errors: NotRequired[list[Mistake]]


class PlainError(TypedDict):
    """A query over a WebSocket without a subprotocol was refused."""

    type: Literal["error"]
    session_id: str
    error: str
    code: str
    status: int

"""What callers ask of the engine, and what they get to see. Values are plain; transports have checked their form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import TypedDict

from portico.core.events import Content, PermissionRequest
from portico.core.state import State


@dataclass(frozen=True, slots=True)
class NewSession:
    """``mcp_servers``: names of the operator's, or configurations of the caller's own by name."""

    session_id: str | None = None
    title: str | None = None
    driver: str | None = None
    model: str | None = None
    cwd: str | None = None
    system_prompt: str | None = None
    append_system_prompt: str | None = None
    permission_mode: str | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    mcp_servers: Mapping[str, Any] | tuple[str, ...] = field(default_factory=dict)
    max_turns: int | None = None
    setting_sources: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewTurn:
    """``turn_id`` is the caller's idempotency key: the same one again attaches to the turn that it started."""

    content: Content
    turn_id: str | None = None
    if_busy: Literal["queue", "reject", "interrupt", "steer"] = "queue"
    commands: bool = False


TurnState = Literal["queued", "running", "complete"]


@dataclass(frozen=True, slots=True)
class TurnView:
    """An accepted turn. ``created`` is false where an earlier request has started it."""

    turn_id: str
    session_id: str
    state: TurnState
    first_seq: int
    created: bool


class SessionView(TypedDict):
    """A session. Times are RFC 3339 in UTC; ``usage`` (tokens) and ``cost_usd`` are of all its turns."""

    session_id: str
    title: str | None
    state: State
    driver: str
    model: str | None
    cwd: str
    permission_mode: str
    owner: str
    created_at: str
    last_active_at: str
    last_seq: int
    turns: int
    queued: int
    pending_permissions: list[PermissionRequest]
    usage: dict[str, Any]
    cost_usd: float
    metadata: dict[str, Any]

"""The requests of callers to the engine (new sessions, changes, turns), and the views of sessions and turns.

Values are plain; transports have checked their form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

from portico.core.errors import NotFound
from portico.core.events import Content, Draft, PermissionRequest, SessionChange
from portico.core.state import State
from portico.core.store import SessionRecord
from portico.core.usage import CostBasis, ModelUsage

OPTION_CAPABILITIES = ("output_schema", "effort", "fallback_model", "add_dirs", "agents")
"""The options of a session that only some drivers know. Each is the name of a capability too."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """A request for a session. ``mcp_servers`` are names of the operator's, or the caller's configurations by name."""

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
    budget_usd: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    output_schema: Mapping[str, Any] | None = None
    effort: str | None = None
    fallback_model: str | None = None
    add_dirs: tuple[str, ...] = ()
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def needs(self) -> Iterator[str]:
        """The capabilities that the driver must have."""
        return (name for name in OPTION_CAPABILITIES if getattr(self, name))


@dataclass(frozen=True, slots=True)
class NewFork:
    """A request for a session with the history of another one up to the end of a turn (None: the last that is over).

    ``workspace`` says whether it gets a copy of the other's folder, as that is now, or works in the same folder.
    """

    session_id: str | None = None
    turn_id: str | None = None
    title: str | None = None
    workspace: Literal["copy", "share"] = "copy"
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A request for a turn. ``turn_id`` is the caller's idempotency key: a repeated one attaches to the same turn."""

    content: Content
    turn_id: str | None = None
    if_busy: Literal["queue", "reject", "interrupt", "steer"] = "queue"
    commands: bool = False
    output_schema: Mapping[str, Any] | None = None

    @property
    def needs(self) -> Iterator[str]:
        """The capabilities that the driver must have."""
        if self.if_busy in ("interrupt", "steer"):
            yield self.if_busy
        if isinstance(self.content, list) and any(block.get("type") == "document" for block in self.content):
            yield "documents"
        if self.output_schema is not None:
            yield "output_schema"


OF_THE_RECORD = ("title", "metadata", "budget_usd")
"""The members that a change may have beside the agent's own options."""


@dataclass(frozen=True, slots=True)
class SessionChanges:
    """Changes to a session: ``given`` has new values of ``model``, ``effort``, ``permission_mode`` or one of
    `OF_THE_RECORD`.

    ``revoked`` is the id of a permission rule that no longer applies.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    revoked: str | None = None

    @property
    def abilities(self) -> list[str]:
        """The capabilities that the session's driver must have."""
        names = [f"set_{name}" for name in ("model", "permission_mode") if name in self.given]
        names += ["effort"] if "effort" in self.given else []
        return names if self.revoked is None else [*names, "permission_rules"]

    def apply(self, record: SessionRecord) -> SessionRecord:
        """Return the changed record. Raises `NotFound` (``rule_not_found``)."""
        of_agent = {name: self.given[name] for name in ("model", "effort", "permission_mode") if name in self.given}
        of_record = {name: self.given[name] for name in OF_THE_RECORD if name in self.given}
        rules = record.options.permission_rules
        if self.revoked is not None:
            of_agent["permission_rules"] = tuple(rule for rule in rules if rule["id"] != self.revoked)
            if len(of_agent["permission_rules"]) == len(rules):
                raise NotFound(f"the session has no permission rule {self.revoked!r}", code="rule_not_found")
        return replace(record, options=record.options.with_changes(**of_agent), **of_record)

    def drafts(self, before: SessionRecord, after: SessionRecord) -> list[Draft]:
        """Return the events that report the changes between two records."""
        change = SessionChange(type="session", state=before.state, reason="changed")
        if before.options.permission_mode != after.options.permission_mode:
            change["permission_mode"] = after.options.permission_mode
        if before.options.model != after.options.model:
            change["model"] = after.options.model
        if before.options.permission_rules != after.options.permission_rules:
            change = rules_change(after, "changed", change)
        return [Draft(change)] if len(change) > 3 else []


def rules_change(record: SessionRecord, reason: str, change: SessionChange | None = None) -> SessionChange:
    """Return the event that reports the permission rules of ``record``, with the members of ``change``."""
    change = change or SessionChange(type="session", state=record.state, reason=reason)
    change["permission_rules"] = [dict(rule) for rule in record.options.permission_rules]
    return change


TurnState = Literal["queued", "running", "complete"]


@dataclass(frozen=True, slots=True)
class TurnView:
    """An accepted turn. ``created`` is false if an earlier request started it; ``last_seq`` is set once it is over."""

    turn_id: str
    session_id: str
    state: TurnState
    first_seq: int
    created: bool
    last_seq: int | None = None


class TaskView(TypedDict):
    """A task in the background, as its `Task` events have described it. ``progress`` is what it does just now."""

    task_id: str
    kind: str
    description: str
    started_at: str
    progress: NotRequired[str]
    tool_use_id: NotRequired[str]
    subagent: NotRequired[str]
    usage: NotRequired[dict[str, Any]]


class ScheduleView(TypedDict):
    """A prompt that the agent has scheduled, as its `Schedule` events have described it."""

    schedule_id: str
    kind: Literal["wakeup", "cron"]
    prompt: str
    next_at: str
    recurring: bool
    created_at: str
    cron: NotRequired[str]
    reason: NotRequired[str]


class SessionView(TypedDict):
    """A session. Times are RFC 3339 in UTC; ``usage`` (tokens), by model too, and ``cost_usd`` are of all its turns.

    ``model`` and ``permission_mode`` are those of the agent, or those with which its next turn begins. ``model`` is
    null until the first turn if nobody has chosen one. ``permission_rules`` are what answers with ``remember`` allow.
    """

    session_id: str
    title: str | None
    state: State
    driver: str
    model: str | None
    effort: str | None
    fallback_model: str | None
    cwd: str
    add_dirs: list[str]
    permission_mode: str
    permission_rules: list[dict[str, Any]]
    owner: str
    created_at: str
    last_active_at: str
    last_seq: int
    turns: int
    queued: int
    pending_permissions: list[PermissionRequest]
    usage: dict[str, Any]
    usage_by_model: dict[str, ModelUsage]
    cost_usd: float
    cost_basis: CostBasis
    tasks: list[TaskView]
    schedules: list[ScheduleView]
    budget_usd: float | None
    metadata: dict[str, Any]


def session_view(
    record: SessionRecord,
    *,
    last_seq: int | None = None,
    queued: int = 0,
    pending: list[PermissionRequest] | None = None,
) -> SessionView:
    """Return the view of a record, with the details that only a live session knows."""
    return SessionView(
        session_id=record.session_id,
        title=record.title,
        state=record.state,
        driver=record.driver,
        model=record.options.model,
        effort=record.options.effort,
        fallback_model=record.options.fallback_model,
        cwd=record.cwd,
        add_dirs=list(record.options.add_dirs),
        permission_mode=record.options.permission_mode,
        permission_rules=[dict(rule) for rule in record.options.permission_rules],
        owner=record.owner,
        created_at=record.created_at,
        last_active_at=record.last_active_at,
        last_seq=record.last_seq if last_seq is None else last_seq,
        turns=record.turns,
        queued=queued,
        pending_permissions=pending or [],
        usage=dict(record.usage),
        usage_by_model=dict(record.usage_by_model),
        cost_usd=record.cost_usd,
        cost_basis=record.cost_basis,
        tasks=[cast(TaskView, dict(task)) for task in record.tasks],
        budget_usd=record.budget_usd,
        schedules=[
            cast(ScheduleView, {name: kept[name] for name in ScheduleView.__annotations__ if name in kept})
            for kept in record.schedules
            if not kept.get("muted")
        ],
        metadata=dict(record.metadata),
    )

"""The flaws of what a driver says are events. Drivers may be third-party code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portico.core.events import encode_json
from portico.core.usage import flaw_of_usage

_MEMBERS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "delta": {"content": str},
    "thinking": {"content": str},
    "message": {"role": str, "content": list},
    "tool_use": {"tool_use_id": str, "tool_name": str, "input": dict},
    "tool_result": {"tool_use_id": str, "content": (str, list)},
    "permission_request": {"request_id": str, "tool_name": str, "input": dict},
    "permission_withdrawn": {"request_id": str},
    "permission_mode": {"permission_mode": str},
    "model": {"model": str},
    "notice": {"name": str},
    "task": {"task_id": str, "state": str, "kind": str, "description": str},
    "schedule": {"schedule_id": str, "state": str, "kind": str, "prompt": str},
    "error": {"error": str, "code": str},
    "complete": {"stop_reason": str, "usage": dict, "cost_usd": (int, float)},
}
_KEPT = frozenset({"complete", "task", "schedule"})
"""Events of which parts go into the session's record."""

_OURS = frozenset({"session_id", "seq", "time"})


def flaw(event: Any) -> str | None:
    """Return the reason why a value is not an `AgentEvent`, or None. Drivers may be third-party code."""
    kind = event.get("type") if isinstance(event, dict) else None
    members = _MEMBERS.get(kind) if isinstance(kind, str) else None
    if members is None:
        return f"an agent has no events like {str(event)[:200]!r}"
    for name, types in members.items():
        if not isinstance(event.get(name), types):
            return f"an event of the type {kind} has no good {name}: {str(event.get(name))[:200]!r}"
    if not _OURS.isdisjoint(event):
        return f"an event of the type {kind} has members that are not the agent's: {sorted(_OURS & event.keys())}"
    if kind == "complete" and (fault := flaw_of_usage(event.get("usage_by_model", {}))) is not None:
        return f"an event of the type complete has no good usage_by_model: {fault}"
    if kind in _KEPT:
        try:
            encode_json(event)
        except (TypeError, ValueError, RecursionError) as error:
            return f"an event of the type {kind} is no JSON: {error}"
    return None

"""A session as callers see it."""

from __future__ import annotations

from portico.core.events import PermissionRequest
from portico.core.requests import SessionView
from portico.core.store import SessionRecord


def session_view(
    record: SessionRecord,
    *,
    last_seq: int | None = None,
    queued: int = 0,
    pending: list[PermissionRequest] | None = None,
) -> SessionView:
    """What a record tells, and what only a live session knows."""
    return SessionView(
        session_id=record.session_id,
        title=record.title,
        state=record.state,
        driver=record.driver,
        model=record.options.model,
        cwd=record.cwd,
        permission_mode=record.options.permission_mode,
        owner=record.owner,
        created_at=record.created_at,
        last_active_at=record.last_active_at,
        last_seq=record.last_seq if last_seq is None else last_seq,
        turns=record.turns,
        queued=queued,
        pending_permissions=pending or [],
        usage=dict(record.usage),
        cost_usd=record.cost_usd,
        metadata=dict(record.metadata),
    )

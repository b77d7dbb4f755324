"""What may be changed of a session while it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from portico.core.events import Draft, SessionChange
from portico.core.store import SessionRecord


@dataclass(frozen=True, slots=True)
class SessionChanges:
    """``given`` holds what is to change, by name: ``title``, ``metadata``, ``model``, ``permission_mode``."""

    given: Mapping[str, Any]

    def apply(self, record: SessionRecord) -> SessionRecord:
        of_agent = {name: self.given[name] for name in ("model", "permission_mode") if name in self.given}
        of_record = {name: self.given[name] for name in ("title", "metadata") if name in self.given}
        return replace(record, options=record.options.with_changes(**of_agent), **of_record)

    def drafts(self, record: SessionRecord) -> list[Draft]:
        """The events that tell of the changes, which are yet to be made to ``record``."""
        mode = self.given.get("permission_mode", record.options.permission_mode)
        if mode == record.options.permission_mode:
            return []
        return [Draft(SessionChange(type="session", state=record.state, reason="changed", permission_mode=mode))]

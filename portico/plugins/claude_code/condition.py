"""The condition of the CLI, as its lines report it: the permission mode in force. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portico.core.events import AgentEvent, AgentMode
from portico.plugins.claude_code.mode_hook import MODES

Json = dict[str, Any]

PLAN = "plan"


class Condition:
    """The condition of a CLI that was started in the permission mode ``mode``."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._mode_before_plan = "default" if mode == PLAN else mode
        self._told = True

    @property
    def mode_after_plan(self) -> str:
        """The permission mode to which the CLI changes once its plan is approved."""
        return self._mode_before_plan if self._mode == PLAN else self._mode

    def forget_told(self) -> None:
        """Report everything again: nobody heard the earlier report."""
        self._told = False

    def reported(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the changes that a ``system`` line of the subtype ``init`` or ``status`` reports."""
        mode = line.get("permissionMode")
        if not isinstance(mode, str):
            return
        mode = MODES.get(mode, mode)
        if mode == PLAN != self._mode:
            self._mode_before_plan = self._mode
        if mode != self._mode or not self._told:
            self._mode, self._told = mode, True
            yield AgentMode(type="permission_mode", permission_mode=mode)

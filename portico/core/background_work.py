"""The work that a session's agent does behind its turns: its tasks in the background."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio

from portico.core.clock import rfc3339
from portico.core.events import EventBody, Notice
from portico.core.journal import Journal
from portico.core.policy import Policy
from portico.core.task_event import Task

REPORT_SECONDS = 3.0
"""The time in which an agent begins its own turn about a task that has ended. It takes 50 ms on a quiet machine."""


class BackgroundWork:
    """The tasks in the background of one session's agent. They are kept in the session's record."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._reports_until = -math.inf

    @property
    def tasks(self) -> tuple[Mapping[str, Any], ...]:
        return self._journal.record.tasks

    @property
    def under_way(self) -> bool:
        """Tell whether the agent's process is needed: for a task, or for the agent's turn about one that has ended."""
        return bool(self.tasks) or anyio.current_time() < self._reports_until

    @property
    def reports_until(self) -> float:
        """The time until which the agent may begin a turn about its last task; infinite if it won't."""
        return math.inf if self.tasks or anyio.current_time() >= self._reports_until else self._reports_until

    def patience(self, policy: Policy) -> float:
        """Return the seconds for which the session may be idle."""
        return max(policy.session_timeout, policy.background_timeout) if self.tasks else policy.session_timeout

    def turn_begun(self) -> None:
        """Note that the agent has begun its turn."""
        self._reports_until = -math.inf

    def note(self, event: Task) -> None:
        """Note what the agent says about a task."""
        others = tuple(task for task in self.tasks if task["task_id"] != event["task_id"])
        known = next((task for task in self.tasks if task["task_id"] == event["task_id"]), None)
        if event["state"] == "ended":
            if known is not None and event.get("outcome") in ("completed", "failed"):
                self._reports_until = anyio.current_time() + REPORT_SECONDS
            self._keep(others)
            return
        names = ("task_id", "kind", "description", "tool_use_id", "subagent", "usage")
        task: dict[str, Any] = {name: event[name] for name in names if name in event}  # type: ignore[literal-required]
        task["started_at"] = rfc3339() if known is None else known["started_at"]
        if event["state"] == "progress" and known is not None:
            task |= {"description": known["description"], "progress": event["description"]}
        self._keep((*others, task))

    def lost(self, reason: str) -> list[EventBody]:
        """Forget all tasks, which have died with the agent's process, and return the events that say so."""
        bodies = lost_tasks(self.tasks, reason)
        self._keep(())
        self._reports_until = -math.inf
        return bodies

    def _keep(self, tasks: tuple[Mapping[str, Any], ...]) -> None:
        if tasks or self.tasks:
            self._journal.record = replace(self._journal.record, tasks=tasks)


def lost_tasks(tasks: tuple[Mapping[str, Any], ...], reason: str) -> list[EventBody]:
    """Return the events that say that ``tasks`` have died with the agent's process, and why."""
    if not tasks:
        return []
    ends: list[EventBody] = [
        Task(
            type="task",
            task_id=task["task_id"],
            state="ended",
            kind=task["kind"],
            description=task["description"],
            outcome="lost",
        )
        for task in tasks
    ]
    detail = {"reason": reason, "tasks": [{n: task[n] for n in ("task_id", "kind", "description")} for task in tasks]}
    return [*ends, Notice(type="notice", name="background_tasks_lost", detail=detail)]

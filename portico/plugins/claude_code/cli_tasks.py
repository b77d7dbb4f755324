"""The CLI's tasks in the background, as its lines report them. Sans-IO.

``background_tasks_changed`` has the whole list, and comes before the ``task_started`` that says more about a new one. A
subagent in the foreground is a task too, but not in that list, unless it moves into the background later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from portico.core.task_event import Task

Json = dict[str, Any]

KINDS = {"local_bash": "shell", "local_agent": "subagent"}
OUTCOMES: dict[str, Literal["completed", "failed"]] = {"completed": "completed", "failed": "failed"}
"""Outcomes by the CLI's ``status``. All others (``stopped``, ``killed``) are `stopped`."""

MAX_TEXT = 1000
MAX_HEARD = 64
"""Tasks in the foreground whose start is remembered."""


class CliTasks:
    """The tasks of one CLI process."""

    def __init__(self) -> None:
        self._told: dict[str, Task] = {}  # those in the background, by id
        self._new: dict[str, Json] = {}  # listed, but not started yet
        self._heard: dict[str, Json] = {}  # started, but not listed

    def reported(self, line: Json) -> Iterator[Task]:
        """Yield the events that a ``system`` line means; none if it is not about a task."""
        subtype, task_id = line.get("subtype"), str(line.get("task_id"))
        if subtype == "task_started" and task_id not in self._new:
            self._heard[task_id] = line
            if len(self._heard) > MAX_HEARD:
                del self._heard[next(iter(self._heard))]
        elif subtype == "task_started":
            yield self._started(task_id, {**self._new.pop(task_id), **line})
        else:
            for listed, about in list(self._new.items()):  # no line has said more
                del self._new[listed]
                yield self._started(listed, about)
        match subtype:
            case "background_tasks_changed" if isinstance(tasks := line.get("tasks"), list):
                yield from self._changed(tasks)
            case "task_progress" if task_id in self._told:
                yield self._event(task_id, "progress", line)
            case "task_notification":
                self._heard.pop(task_id, None)
                yield from self._ended(task_id, line)

    def _changed(self, tasks: list[Any]) -> Iterator[Task]:
        listed = {str(task.get("task_id")): task for task in tasks if isinstance(task, dict)}
        for task_id in [known for known in self._told if known not in listed]:
            yield from self._ended(task_id, {})
        for task_id, about in listed.items():
            if task_id in self._heard:
                yield self._started(task_id, {**about, **self._heard.pop(task_id)})
            elif task_id not in self._told:
                self._new[task_id] = about

    def _started(self, task_id: str, about: Json) -> Task:
        kind = str(about.get("task_type"))
        task = Task(
            type="task",
            task_id=task_id,
            state="started",
            kind=KINDS.get(kind, kind.removeprefix("local_")),
            description=_text(about.get("description")),
        )
        if isinstance(tool_use_id := about.get("tool_use_id"), str):
            task["tool_use_id"] = tool_use_id
        if isinstance(subagent := about.get("subagent_type"), str):
            task["subagent"] = subagent
        self._told[task_id] = task
        return task

    def _event(self, task_id: str, state: Literal["progress", "ended"], line: Json) -> Task:
        task = self._told[task_id].copy()
        task["state"] = state
        if isinstance(line.get("description"), str):
            task["description"] = _text(line["description"])
        if isinstance(usage := line.get("usage"), dict):
            task["usage"] = usage
        return task

    def _ended(self, task_id: str, line: Json) -> Iterator[Task]:
        if task_id not in self._told:
            return
        task = self._event(task_id, "ended", line)
        task["outcome"] = OUTCOMES.get(str(line.get("status")), "stopped")
        if summary := line.get("summary"):
            task["summary"] = _text(summary)
        del self._told[task_id]
        yield task


def _text(value: Any) -> str:
    text = str(value or "")
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."

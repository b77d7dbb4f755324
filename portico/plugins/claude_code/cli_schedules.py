"""The schedules that an agent sets, as results of its tools and starts of its turns report them. Sans-IO.

Measured on 2.1.330. A process that resumes a conversation takes its jobs (CronCreate) up again, but not its wakeup
(ScheduleWakeup). What was due while there was no process is lost, unless the job is durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portico.core.clock import rfc3339_at
from portico.core.schedule_event import Schedule

Json = dict[str, Any]

WAKEUP = "wakeup"
"""The id of a wakeup: there is one at most."""

TOOLS = frozenset({"CronCreate", "CronDelete", "ScheduleWakeup"})
SOURCES = {
    "loop_wakeup": Schedule(type="schedule", schedule_id=WAKEUP, state="fired", kind="wakeup", prompt=""),
    "schedule_wakeup": Schedule(type="schedule", schedule_id="", state="fired", kind="cron", prompt=""),
}
"""Events by the source of a turn that the CLI begins as scheduled; of a job it does not say which."""

MAX_CALLS = 64
MAX_PROMPT = 16 * 1024


class CliSchedules:
    """The schedules of one CLI process."""

    def __init__(self) -> None:
        self._calls: dict[str, Json] = {}  # by tool_use_id

    def reported(self, line: Json) -> Iterator[Schedule]:
        """Yield the events that a line means; none if it is not about a schedule."""
        match line.get("type"):
            case "assistant":
                for block in _blocks(line):
                    if block.get("type") == "tool_use" and block.get("name") in TOOLS:
                        self._calls[str(block.get("id"))] = block
                        if len(self._calls) > MAX_CALLS:
                            del self._calls[next(iter(self._calls))]
            case "user" if self._calls:
                for block in _blocks(line):
                    if (call := self._calls.pop(str(block.get("tool_use_id")), None)) and not block.get("is_error"):
                        yield from _done(str(call.get("name")), call.get("input"), line.get("tool_use_result"))
            case "command_lifecycle" if line.get("state") == "started" and line.get("wakeup_source") in SOURCES:
                yield SOURCES[line["wakeup_source"]].copy()


def _done(name: str, asked: Any, result: Any) -> Iterator[Schedule]:
    if not isinstance(asked, dict) or not isinstance(result, dict):
        return
    prompt = str(asked.get("prompt") or "")[:MAX_PROMPT]
    match name:
        case "CronCreate" if isinstance(due := result.get("nextFireAt"), int | float):
            yield Schedule(
                type="schedule",
                schedule_id=str(result.get("id")),
                state="set",
                kind="cron",
                prompt=prompt,
                next_at=rfc3339_at(due / 1000),
                cron=str(asked.get("cron")),
                recurring=result.get("recurring") is True,
                durable=result.get("durable") is True,
            )
        case "CronDelete":
            yield Schedule(type="schedule", schedule_id=str(asked.get("id")), state="removed", kind="cron", prompt="")
        case "ScheduleWakeup" if asked.get("stop") is True:
            yield Schedule(type="schedule", schedule_id=WAKEUP, state="removed", kind="wakeup", prompt="")
        case "ScheduleWakeup" if isinstance(due := result.get("scheduledFor"), int | float):
            event = Schedule(
                type="schedule",
                schedule_id=WAKEUP,
                state="set",
                kind="wakeup",
                prompt=prompt,
                next_at=rfc3339_at(due / 1000),
            )
            if asked.get("reason"):
                event["reason"] = str(asked["reason"])[:MAX_PROMPT]
            yield event


def _blocks(line: Json) -> Iterator[Json]:
    said = line.get("message")
    content = said.get("content") if isinstance(said, dict) else None
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield block

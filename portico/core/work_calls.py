"""The engine's calls about an agent's work behind its turns: tasks in the background, and schedules."""

from __future__ import annotations

from portico.core.ability_calls import AbilityCalls
from portico.core.agent import require
from portico.core.audit import noting
from portico.core.errors import NotFound
from portico.core.principal import Principal


class WorkCalls(AbilityCalls):
    """The calls about work behind turns. See `Engine`."""

    async def stop_task(self, principal: Principal, session_id: str, task_id: str) -> None:
        """Stop a task in the background; its event ``ended`` follows.

        Raises `NotFound` (``task_not_found``), and as `AbilityCalls`.
        """
        with noting(self.audit, "task.stop", principal, session_id=session_id, task_id=task_id):
            life, record = await self._allow(principal, session_id)
            require(self._drivers.of(record), "stop_task")
            session = self._lives.session(life)
            if session is None or all(task["task_id"] != task_id for task in session.record.tasks):
                raise NotFound(f"there is no task {task_id!r} that goes on", code="task_not_found")
            await self._call(principal, session_id, "stop_task", task_id=task_id)

    async def remove_schedule(self, principal: Principal, session_id: str, schedule_id: str) -> None:
        """Remove what the agent has scheduled: it begins no turn any more.

        Raises `NotFound` (``schedule_not_found``), `Conflict` (``session_closed``), `Exhausted`, `StoreFailed`.
        """
        with noting(self.audit, "schedule.remove", principal, session_id=session_id, schedule_id=schedule_id):
            life, _ = await self._allow(principal, session_id)
            await self._reach(life, lambda session: session.remove_schedule(schedule_id))

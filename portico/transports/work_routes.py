"""The routes of an agent's work behind its turns: tasks in the background, and schedules."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from portico.core.sessions import Sessions
from portico.transports.ability_routes import CALL_CODES
from portico.transports.admission import QUERY
from portico.transports.auth import principal_of
from portico.transports.endpoint import route
from portico.transports.operation import Answer, operation
from portico.transports.session_routes import visible


class WorkRoutes:
    """The routes of work behind turns. ``prefix`` is the path of the API."""

    def __init__(self, engine: Sessions, prefix: str) -> None:
        self._engine = engine
        self._prefix = prefix

    def routes(self) -> list[Route]:
        one, check = f"{self._prefix}/sessions/{{session_id}}", visible(self._engine)
        return [
            route(f"{one}/tasks/{{task_id}}/stop", check=check, POST=self._stop),
            route(f"{one}/schedules/{{schedule_id}}", check=check, DELETE=self._remove),
        ]

    @operation(
        "stopTask",
        "Stop a task in the background",
        Answer(202, "It ends soon; its `task` event says so."),
        codes=("task_not_found", *CALL_CODES),
        admission=QUERY,
    )
    async def _stop(self, request: Request) -> Response:
        """Works while a turn runs, too."""
        session_id, task_id = request.path_params["session_id"], request.path_params["task_id"]
        await self._engine.stop_task(principal_of(request), session_id, task_id)
        return Response(status_code=202)

    @operation(
        "removeSchedule",
        "Remove what the agent has scheduled",
        Answer(204, "It begins no turn any more."),
        codes=("schedule_not_found", "session_closed", "too_many_sessions", "driver_not_loaded"),
        admission=QUERY,
    )
    async def _remove(self, request: Request) -> Response:
        """The agent itself may still list it; a turn that it begins for it is interrupted at once."""
        session_id, schedule_id = request.path_params["session_id"], request.path_params["schedule_id"]
        await self._engine.remove_schedule(principal_of(request), session_id, schedule_id)
        return Response(status_code=204)

"""The routes of an agent's abilities beside turns: its context, commands and MCP servers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from portico.core.abilities import ContextUse, Rewind
from portico.core.sessions import Sessions
from portico.transports.admission import CALL, CHANGING, QUERY
from portico.transports.answer_bodies import CommandList, McpList, ModelList
from portico.transports.auth import principal_of
from portico.transports.endpoint import route
from portico.transports.models import KIB, RewindBody
from portico.transports.operation import Answer, operation
from portico.transports.parameters import ModelParameters
from portico.transports.session_routes import json_answer, visible

CALL_CODES = (
    *("not_supported", "session_closed", "agent_busy", "agent_unavailable", "too_many_calls", "too_many_sessions"),
    *("draining", "driver_not_loaded", "workspace_moved", "workspace_not_allowed"),
)
"""The codes that may refuse a call of an agent."""


REWIND_BYTES = 4 * KIB


class AbilityRoutes:
    """The routes of abilities. ``prefix`` is the path of the API."""

    def __init__(self, engine: Sessions, prefix: str) -> None:
        self._engine = engine
        self._prefix = prefix

    def routes(self) -> list[Route]:
        one, check = f"{self._prefix}/sessions/{{session_id}}", visible(self._engine)
        return [
            route(f"{one}/context", check=check, GET=self._context),
            route(f"{one}/commands", check=check, GET=self._commands),
            route(f"{one}/mcp", check=check, GET=self._mcp),
            route(f"{one}/rewind", check=check, max_body=REWIND_BYTES, POST=self._rewind),
            route(f"{self._prefix}/models", GET=self._models),
        ]

    @operation(
        "getContext",
        "See how full the context window is",
        Answer(200, "Its use, in tokens.", ContextUse),
        codes=CALL_CODES,
        admission=CALL,
    )
    async def _context(self, request: Request) -> Response:
        """Works while a turn runs, too. An agent is started for it if the session has none."""
        return await json_answer(await self._engine.context(principal_of(request), request.path_params["session_id"]))

    @operation(
        "listCommands",
        "List the commands that the agent knows",
        Answer(200, "The commands.", CommandList),
        codes=CALL_CODES,
        admission=CALL,
    )
    async def _commands(self, request: Request) -> Response:
        """A turn with `commands: true` and the text `/NAME` runs one. An agent is started if the session has none."""
        commands = await self._engine.commands(principal_of(request), request.path_params["session_id"])
        return await json_answer(CommandList(commands=list(commands)))

    @operation(
        "listMcpServers",
        "List the MCP servers of a session",
        Answer(200, "The servers, and the state of each.", McpList),
        codes=CALL_CODES,
        admission=CALL,
    )
    async def _mcp(self, request: Request) -> Response:
        """An agent is started if the session has none; its servers may then be `pending` for a moment."""
        servers = await self._engine.mcp(principal_of(request), request.path_params["session_id"])
        return await json_answer(McpList(servers=list(servers)))

    @operation(
        "rewindFiles",
        "Set files back to the start of a turn",
        Answer(200, "The files that were, or with `dry_run` would be, set back.", Rewind),
        codes=(*CALL_CODES, "turn_not_found", "busy", "no_checkpoint"),
        admission=QUERY,
    )
    async def _rewind(self, request: Request, body: RewindBody) -> Response:
        """Only files that the agent's own tools have changed are set back, not those that a command has changed. The
        agent's memory stays; a notice `files_rewound` tells other clients.
        """
        session_id = request.path_params["session_id"]
        rewound = await self._engine.rewind(principal_of(request), session_id, body.turn_id, dry_run=body.dry_run)
        return await json_answer(rewound)

    @operation(
        "listModels",
        "List the models that sessions may use",
        Answer(200, "The models.", ModelList),
        codes=("not_supported", "unknown_driver", "agent_busy", "agent_unavailable", "draining"),
        admission=CHANGING,
    )
    async def _models(self, request: Request, query: ModelParameters) -> Response:
        """The models of the driver `driver`, by default of the server's own. An agent may be started for the answer."""
        driver, models = await self._engine.models(principal_of(request), query.driver)
        return await json_answer(ModelList(driver=driver, models=list(models)))

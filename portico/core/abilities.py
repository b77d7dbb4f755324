"""Abilities of agents beyond turns, each with its answer: a driver names in its ``capabilities`` those that it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, Protocol

from typing_extensions import TypedDict

from portico.core.agent import AgentSpec, Decision
from portico.core.events import AgentEvent, Complete, PermissionRequest

ABILITIES = frozenset({"context", "commands", "mcp", "models", "rewind", "stop_task", "fork"})
"""Those that this file describes."""


class ContextPart(TypedDict):
    """A part of the context window: ``tokens`` in it, and whether they are used, kept free, or loaded when needed."""

    id: str
    name: str
    tokens: int
    kind: Literal["used", "free", "reserved", "deferred"]


class ContextUse(TypedDict):
    """The use of the context window, in tokens. ``compacts_at`` is where the agent compacts by itself, or null."""

    model: str
    tokens: int
    max_tokens: int
    percent: float
    compacts_at: int | None
    parts: list[ContextPart]


class CommandInfo(TypedDict):
    """A command: with ``commands: true``, the text ``/NAME ARGUMENTS`` of a turn runs it."""

    name: str
    description: str
    arguments: str


class McpTool(TypedDict):
    name: str
    description: str


class McpServer(TypedDict):
    """An MCP server of a session. Its ``status`` is ``connected``, ``pending``, ``failed``, ``needs-auth`` or
    ``disabled``.
    """

    name: str
    status: str
    version: NotRequired[str]
    tools: list[McpTool]


class Rewind(TypedDict):
    """The files that a rewind has changed or, with ``dry_run``, would change, and the lines that come and go."""

    turn_id: str
    dry_run: bool
    files: list[str]
    insertions: int
    deletions: int


class ModelInfo(TypedDict):
    """A model that sessions may use: ``model`` is the value for it, ``stands_for`` what that means today."""

    model: str
    stands_for: str
    name: str
    description: str
    efforts: list[str]


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """The rest of the turn ``turn_id``, whose agent was stopped while it waited for the answer to ``request``."""

    turn_id: str
    request: PermissionRequest
    decision: Decision


class AgentAbilities(Protocol):
    """Further methods of an agent, for the abilities of the same name. All raise as those of `Agent` do.

    The session's own task starts them. Each may be called at any time from the first turn, claim or start on, also
    while `Agent.run` or another of them goes on. Each must end within some seconds.
    """

    async def part(self) -> Complete:
        """Stop, as `Agent.close`, while the turn waits for a question or a plan alone; return its usage so far.

        For the capability ``late_answers``. Another agent of the same id will then `go_on` with the answer.
        """

    def go_on(self, late: LateAnswer) -> AsyncIterator[AgentEvent]:
        """Do as `Agent.run` for the rest of a turn, in the mode to which the answer takes the agent.

        For the capability ``late_answers``. Yield the `ToolResult` of the tool that has asked first.
        """

    async def context(self) -> ContextUse:
        """Return the use of the context window."""

    async def commands(self) -> Sequence[CommandInfo]:
        """Return the commands that the agent knows."""

    async def mcp(self) -> Sequence[McpServer]:
        """Return the agent's MCP servers, and their state."""

    async def models(self) -> Sequence[ModelInfo]:
        """Return the models that the agent could use."""

    async def stop_task(self, task_id: str) -> None:
        """Stop this task in the background; its `Task` ``ended`` follows. An unknown id is no error."""

    async def rewind(self, turn_id: str, *, dry_run: bool) -> Rewind:
        """Set the files that the agent has changed since the start of this turn back. Called between turns only.

        With ``dry_run`` nothing is changed. Raises `Conflict` (``no_checkpoint``) if the agent does not know how they
        were.
        """


class DriverAbilities(Protocol):
    """Further methods of a driver, for the abilities of the same name."""

    async def fork(self, source: AgentSpec, spec: AgentSpec, turns: Sequence[str] | None, own_turns: int) -> None:
        """Prepare the folder of ``spec``, so that a start brings back an agent that knows what ``source`` knows.

        ``turns`` are the turns of callers that it must know, oldest first, and ``own_turns`` counts those behind the
        last of them that ``source`` has begun by itself; it must know of no later turn. With None it must know them
        all. ``source`` may be running. Raises `Conflict` (``not_forkable``) if it is not known where they end.
        """

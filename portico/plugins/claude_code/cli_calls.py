"""The calls that a CLI answers beside its turns: `portico.core.abilities.AgentAbilities`, as control requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from portico.core.abilities import CommandInfo, ContextUse, McpServer, ModelInfo, Rewind
from portico.core.errors import Conflict
from portico.plugins.claude_code import cli_answers
from portico.plugins.claude_code.launch import Launch
from portico.plugins.claude_code.message_ids import message_id

CONTROL_TIME = 5.0
"""Seconds in which the CLI has to answer control requests. It takes 1 to 45 ms."""

CHANGE_TIME = 10.0
"""The same for a request that may make the CLI ask the API whether it knows a model."""


class CliCalls(ABC):
    """The calls of an agent, which makes the requests itself."""

    _launch: Launch

    @abstractmethod
    async def _asked(self, subtype: str, within: float = CONTROL_TIME, **members: Any) -> Mapping[str, Any]:
        """Make one control request, and return the answer. Raises `AgentFailed`: ``agent_error`` if it is refused."""

    async def context(self) -> ContextUse:
        """See `AgentAbilities.context`. Until its first reply, the CLI asks the API to count tokens: 0.1 to 1 s."""
        return cli_answers.context_use(await self._asked("get_context_usage", within=CHANGE_TIME))

    async def commands(self) -> Sequence[CommandInfo]:
        """See `AgentAbilities.commands`. The CLI takes prompts and hooks from its first ``initialize`` alone."""
        return cli_answers.commands(await self._asked("initialize"))

    async def mcp(self) -> Sequence[McpServer]:
        """See `AgentAbilities.mcp`."""
        return cli_answers.mcp_servers(await self._asked("mcp_status"))

    async def models(self) -> Sequence[ModelInfo]:
        """See `AgentAbilities.models`. The CLI knows them without asking the API."""
        return cli_answers.models(await self._asked("list_models"))

    async def rewind(self, turn_id: str, *, dry_run: bool) -> Rewind:
        """See `AgentAbilities.rewind`. The CLI knows what its own tools have changed, and nothing that Bash has."""
        message = message_id(self._launch.spec.agent_id, turn_id)
        would = await self._asked("rewind_files", user_message_id=message, dry_run=True)
        if would.get("canRewind") is not True:
            raise Conflict("the agent does not know how the files were when this turn began", code="no_checkpoint")
        if not dry_run:
            await self._asked("rewind_files", user_message_id=message)
        return cli_answers.rewind(would, turn_id, dry_run=dry_run)

    async def stop_task(self, task_id: str) -> None:
        """See `AgentAbilities.stop_task`. The CLI answers to an unknown id as to others."""
        await self._asked("stop_task", task_id=task_id)

"""The driver ``claude-code``: starts agents, and owns the tasks that serve them."""

from __future__ import annotations

import logging

import anyio
import anyio.abc
import anyio.to_thread

from portico.core.agent import AgentOptions, AgentSpec
from portico.core.errors import AgentUnavailable
from portico.core.short import forget_short
from portico.core.threads import in_thread
from portico.plugins.claude_code.agent import ClaudeAgent
from portico.plugins.claude_code.changes import fixed_options
from portico.plugins.claude_code.cli import CliVersions, find_cli
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.containment import Containment
from portico.plugins.claude_code.isolation import isolate
from portico.plugins.claude_code.launch import Launch
from portico.plugins.claude_code.process import CliProcess
from portico.plugins.claude_code.reaper import reap
from portico.plugins.context import Context

logger = logging.getLogger(__name__)


class ClaudeDriver:
    """Implements `portico.core.agent.AgentDriver`. `open` and `close` belong to one and the same task."""

    name = "claude-code"
    needs_credentials = True
    capabilities = frozenset(
        {"interrupt", "steer", "permissions", "resume", "claim", "set_model", "set_permission_mode"}
    )

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._versions = CliVersions()
        self._containment: Containment | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    def fixed(self, options: AgentOptions) -> AgentOptions:
        """See `AgentDriver.fixed`."""
        return fixed_options(options)

    async def open(self) -> None:
        """Reap, and find out how agents can be kept together. Raises OSError where something can't be killed.

        See `isolate` for more.
        """
        if reaped := await reap(self._config.agents):
            logger.warning("cleared %d agents away of a server that did not stop in good order", len(reaped))
        self._containment = await isolate(self._config)
        self._tasks = await anyio.create_task_group().__aenter__()

    async def check(self) -> None:
        """Raises `AgentUnavailable` where the CLI is missing, too old or broken. Credentials are the turn's matter."""
        cli = await anyio.to_thread.run_sync(find_cli, self._config.cli_path, self._config.search_path)
        await self._versions.check(cli, {"PATH": self._config.search_path})

    async def start(self, spec: AgentSpec) -> ClaudeAgent:
        """See `AgentDriver.start`. Waits for the process, not for a word of it: it says none before the first turn.

        How it fails shows in the first `ClaudeAgent.run`. Raises `InvalidRequest` for options that can't be passed on.
        """
        if self._containment is None or self._tasks is None:
            raise AgentUnavailable("The driver is not open.", code="not_open")
        launch = await Launch.prepare(self._config, self._containment, spec)
        process: CliProcess | None = None
        try:
            process = await launch.start(resume=launch.resume)
        finally:
            if process is None:
                with anyio.CancelScope(shield=True):
                    await launch.clear()
        agent = ClaudeAgent(launch, process)
        self._tasks.start_soon(agent.serve, name=f"agent {spec.agent_id}")
        await agent.introduce()
        return agent

    async def close(self) -> None:
        """Kill the agents that are still there; the engine has closed its own before."""
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)
            await in_thread(lambda: forget_short(self._config.agents))


def create(context: Context) -> ClaudeDriver:
    return ClaudeDriver(DriverConfig.from_context(context))

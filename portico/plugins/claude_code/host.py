"""The machine of the CLI's drivers: removing leftovers, containing agents, and owning the tasks that serve them."""

from __future__ import annotations

import logging

import anyio.abc
import anyio.to_thread

from portico.core.agent import AgentSpec
from portico.core.errors import AgentUnavailable
from portico.core.short import forget_short
from portico.core.threads import in_thread
from portico.plugins.claude_code.cli import CliVersions, find_cli
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.containment import Containment
from portico.plugins.claude_code.isolation import isolate
from portico.plugins.claude_code.launch import Launch
from portico.plugins.claude_code.reaper import reap

logger = logging.getLogger(__name__)


class CliHost:
    """Everything that an agent's process needs around it. `open` and `close` must be called in the same task."""

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._versions = CliVersions()
        self._containment: Containment | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def tasks(self) -> anyio.abc.TaskGroup:
        """The task group of the agents; `close` cancels it. Raises `AgentUnavailable` if the host is not open."""
        if self._tasks is None:
            raise AgentUnavailable("The driver is not open.", code="not_open")
        return self._tasks

    async def open(self) -> None:
        """Kill what an earlier server left running, and find out how to contain agents.

        Raises OSError if something can't be killed; see `isolate` for the rest.
        """
        if reaped := await reap(self._config.agents):
            logger.warning("cleared up %d agents of a server that did not stop cleanly", len(reaped))
        self._containment = await isolate(self._config)
        self._tasks = await anyio.create_task_group().__aenter__()

    async def check(self) -> None:
        """Raise `AgentUnavailable` if the CLI is missing, too old or broken."""
        cli = await anyio.to_thread.run_sync(find_cli, self._config.cli_path, self._config.search_path)
        await self._versions.check(cli, {"PATH": self._config.search_path})

    async def prepare(self, spec: AgentSpec) -> Launch:
        """Prepare to start one agent. Raises `AgentUnavailable` if the host is not open, and as `Launch.prepare`."""
        if self._containment is None or self._tasks is None:
            raise AgentUnavailable("The driver is not open.", code="not_open")
        return await Launch.prepare(self._config, self._containment, spec)

    async def close(self) -> None:
        """Cancel the tasks of the remaining agents, and remove the short folder that was made for them."""
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)
            await in_thread(lambda: forget_short(self._config.agents))

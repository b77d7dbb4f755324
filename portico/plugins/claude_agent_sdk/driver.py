"""The driver ``claude-agent-sdk``: starts agents that are talked to through `claude_agent_sdk.ClaudeSDKClient`.

The CLI, its folders, its environment and its end are those of the driver ``claude-code``. The SDK has the talk:
requests and their answers, permissions, messages. What it does not do, agents of this driver don't either:

- ``claim``: the SDK says ``initialize`` when it connects, and system prompts can be told only by the first of those;
- ``steer``: which turn takes a message up is told by lines that the SDK drops, and by its results only in the end;
- blocks of a kind that the SDK does not know are left out of messages, and so is thinking without a signature;
- the permission request of a subagent does not say which tool use the subagent is of.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread

from portico.core.agent import AgentOptions, AgentSpec
from portico.core.errors import AgentUnavailable
from portico.core.short import forget_short
from portico.core.threads import in_thread
from portico.plugins.claude_code.cli import CliVersions, find_cli
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.containment import Containment
from portico.plugins.claude_code.isolation import isolate
from portico.plugins.claude_code.launch import Launch
from portico.plugins.claude_code.process import CliProcess
from portico.plugins.claude_code.reaper import reap
from portico.plugins.context import Context

if TYPE_CHECKING:
    from portico.plugins.claude_agent_sdk.agent import SdkAgent

logger = logging.getLogger(__name__)


class SdkDriver:
    """Implements `portico.core.agent.AgentDriver`. `open` and `close` belong to one and the same task."""

    name = "claude-agent-sdk"
    needs_credentials = True
    capabilities = frozenset({"interrupt", "permissions", "resume", "set_model", "set_permission_mode"})

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._versions = CliVersions()
        self._containment: Containment | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    def fixed(self, options: AgentOptions) -> AgentOptions:
        """See `AgentDriver.fixed`: nothing can be changed by a claim."""
        return options

    async def open(self) -> None:
        """Reap, and find out how agents can be kept together. Raises OSError where something can't be killed.

        See `isolate` for more.
        """
        if reaped := await reap(self._config.agents):
            logger.warning("cleared %d agents away of a server that did not stop in good order", len(reaped))
        self._containment = await isolate(self._config)
        self._tasks = await anyio.create_task_group().__aenter__()

    async def check(self) -> None:
        """Raises `AgentUnavailable` where the SDK is missing, or the CLI is missing, too old or broken."""
        await anyio.to_thread.run_sync(_load)
        cli = await anyio.to_thread.run_sync(find_cli, self._config.cli_path, self._config.search_path)
        await self._versions.check(cli, {"PATH": self._config.search_path})

    async def start(self, spec: AgentSpec) -> SdkAgent:
        """See `AgentDriver.start`. The CLI is up by then: it has answered the SDK's ``initialize``, in 55 s at most.

        Raises `InvalidRequest` for options that can't be passed on.
        """
        try:
            return await self._start(spec)
        except AgentUnavailable as error:
            if error.code != "no_conversation":
                raise
            return await self._start(spec, afresh=True)  # what is on disk holds no conversation to go on with

    async def close(self) -> None:
        """Kill the agents that are still there; the engine has closed its own before."""
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)
            await in_thread(lambda: forget_short(self._config.agents))

    async def _start(self, spec: AgentSpec, *, afresh: bool = False) -> SdkAgent:
        if self._containment is None or self._tasks is None:
            raise AgentUnavailable("The driver is not open.", code="not_open")
        agent_type = await anyio.to_thread.run_sync(_load)
        launch = await Launch.prepare(self._config, self._containment, spec)
        if afresh:
            await launch.set_transcripts_aside()
        process: CliProcess | None = None
        try:
            process = await launch.start(resume=launch.resume and not afresh)
            agent = agent_type(launch, process)
            await self._tasks.start(agent.serve, name=f"agent {spec.agent_id}")
        except BaseException:
            with anyio.CancelScope(shield=True):
                if process is not None:
                    await process.close()
                await launch.clear()
            raise
        return agent


def _load() -> type[SdkAgent]:
    """Importing the SDK takes 0.7 s, so it is not done on the loop."""
    try:
        from portico.plugins.claude_agent_sdk.agent import SdkAgent
    except ImportError as error:
        detail = f"The Claude Agent SDK cannot be used ({error}): install it with `pip install 'portico[claude]'`."
        raise AgentUnavailable(detail, code="sdk_not_installed") from error
    return SdkAgent


def create(context: Context) -> SdkDriver:
    return SdkDriver(DriverConfig.from_context(context))

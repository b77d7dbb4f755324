"""The driver ``claude-agent-sdk``: starts agents that are talked to through `claude_agent_sdk.ClaudeSDKClient`.

The CLI, its folders, its environment and its end are those of the driver ``claude-code``. The SDK has the talk:
requests and their answers, permissions, messages. What it does not do, agents of this driver don't either:

- ``claim``: the SDK says ``initialize`` when it connects, and system prompts can be told only by the first of those;
- ``steer``: which turn takes a message up is told by lines that the SDK drops, and by its results only in the end;
- blocks of a kind that the SDK does not know are left out of messages, and so is thinking without a signature;
- the permission request of a subagent does not say which tool use the subagent is of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from portico import AgentOptions, AgentSpec, AgentUnavailable, Context
from portico.plugins.claude_code.toolkit import CliHost, CliProcess, DriverConfig

if TYPE_CHECKING:
    from portico_claude_agent_sdk.agent import SdkAgent


class SdkDriver:
    """Implements `portico.AgentDriver`. `open` and `close` belong to one and the same task."""

    name = "claude-agent-sdk"
    needs_credentials = True
    capabilities = frozenset({"interrupt", "permissions", "resume", "set_model", "set_permission_mode"})

    def __init__(self, config: DriverConfig) -> None:
        self._host = CliHost(config)

    def fixed(self, options: AgentOptions) -> AgentOptions:
        """See `AgentDriver.fixed`: nothing can be changed by a claim."""
        return options

    async def open(self) -> None:
        """See `CliHost.open`."""
        await self._host.open()

    async def check(self) -> None:
        """Raises `AgentUnavailable` where the SDK is missing, or the CLI is missing, too old or broken."""
        await anyio.to_thread.run_sync(_load)
        await self._host.check()

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
        await self._host.close()

    async def _start(self, spec: AgentSpec, *, afresh: bool = False) -> SdkAgent:
        tasks = self._host.tasks
        agent_type = await anyio.to_thread.run_sync(_load)
        launch = await self._host.prepare(spec)
        if afresh:
            await launch.set_transcripts_aside()
        process: CliProcess | None = None
        try:
            process = await launch.start(resume=launch.resume and not afresh)
            agent = agent_type(launch, process)
            await tasks.start(agent.serve, name=f"agent {spec.agent_id}")
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
        from portico_claude_agent_sdk.agent import SdkAgent
    except ImportError as error:
        detail = f"The Claude Agent SDK cannot be used ({error}): install it with `pip install claude-agent-sdk`."
        raise AgentUnavailable(detail, code="sdk_not_installed") from error
    return SdkAgent


def create(context: Context) -> SdkDriver:
    return SdkDriver(DriverConfig.from_context(context))

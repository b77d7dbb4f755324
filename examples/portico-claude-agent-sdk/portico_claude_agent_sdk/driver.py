"""The driver ``claude-agent-sdk``: it starts agents and talks to them through `claude_agent_sdk.ClaudeSDKClient`.

The CLI, its folders, its environment and its end are those of the driver ``claude-code``. The SDK handles the
conversation: requests and their answers, permissions, messages. Agents of this driver can't do what it does not do:

- ``claim``: the SDK sends ``initialize`` when it connects, and only the first ``initialize`` can carry system prompts;
- ``steer``: the SDK drops the lines that say which turn takes a message up, and its results say so only at the end;
- blocks of a kind that the SDK does not know are left out of messages, and so is thinking without a signature;
- the permission request of a subagent does not say to which tool use the subagent belongs.
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
    """An implementation of `portico.AgentDriver`. `open` and `close` must be called in the same task."""

    name = "claude-agent-sdk"
    needs_credentials = True
    capabilities = frozenset({"interrupt", "permissions", "resume", "set_model", "set_permission_mode"})

    def __init__(self, config: DriverConfig) -> None:
        self._host = CliHost(config)

    def fixed(self, options: AgentOptions) -> AgentOptions:
        """See `AgentDriver.fixed`: a claim can change nothing."""
        return options

    async def open(self) -> None:
        """See `CliHost.open`."""
        await self._host.open()

    async def check(self) -> None:
        """Check SDK and CLI. Raises `AgentUnavailable` if either is missing, or the CLI is too old or broken."""
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
            return await self._start(spec, afresh=True)  # the transcript on disk has no conversation to continue

    async def close(self) -> None:
        """Kill the agents that are still there; the engine has already closed its own."""
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
    """Import the SDK. This takes 0.7 s, so it is not done on the loop."""
    try:
        from portico_claude_agent_sdk.agent import SdkAgent
    except ImportError as error:
        detail = f"The Claude Agent SDK cannot be used ({error}): install it with `pip install claude-agent-sdk`."
        raise AgentUnavailable(detail, code="sdk_not_installed") from error
    return SdkAgent


def create(context: Context) -> SdkDriver:
    return SdkDriver(DriverConfig.from_context(context))

"""The driver ``claude-code``: it starts agents, and owns the tasks that serve them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio

from portico.core.agent import AgentOptions, AgentSpec
from portico.core.errors import AgentUnavailable
from portico.core.threads import in_thread
from portico.plugins.claude_code.claude_agent import ClaudeAgent
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.host import CliHost
from portico.plugins.claude_code.option_changes import fixed_options
from portico.plugins.claude_code.process import CliProcess
from portico.plugins.claude_code.transcript_fork import fork_transcript
from portico.plugins.context import Context


class ClaudeDriver:
    """An implementation of `portico.core.agent.AgentDriver`. `open` and `close` must be called in the same task."""

    name = "claude-code"
    needs_credentials = True
    capabilities = frozenset(
        {
            *("interrupt", "steer", "permissions", "resume", "claim", "set_model", "set_permission_mode"),
            *("permission_rules", "late_answers", "documents", "stop_task", "context", "commands", "mcp", "models"),
            *("rewind", "fork"),
            *("output_schema", "effort", "fallback_model", "add_dirs", "agents"),
        }
    )

    def __init__(self, config: DriverConfig) -> None:
        self._host = CliHost(config)

    def fixed(self, options: AgentOptions) -> AgentOptions:
        """See `AgentDriver.fixed`."""
        return fixed_options(options)

    async def open(self) -> None:
        """See `CliHost.open`."""
        await self._host.open()

    async def check(self) -> None:
        """Check the CLI. Raises `AgentUnavailable` if it is missing, too old or broken. Credentials are a turn's
        concern.
        """
        await self._host.check()

    async def start(self, spec: AgentSpec) -> ClaudeAgent:
        """See `AgentDriver.start`. Waits for the process, but not for output: there is none before the first turn.

        A failure shows in the first `ClaudeAgent.run`. Raises `InvalidRequest` for options that can't be passed on.
        """
        tasks = self._host.tasks
        launch = await self._host.prepare(spec)
        process: CliProcess | None = None
        try:
            process = await launch.start(resume=launch.resume)
        finally:
            if process is None:
                with anyio.CancelScope(shield=True):
                    await launch.clear()
        agent = ClaudeAgent(launch, process)
        tasks.start_soon(agent.serve, name=f"agent {spec.agent_id}")
        await agent.introduce()
        return agent

    async def fork(self, source: AgentSpec, spec: AgentSpec, turns: Sequence[str] | None, own_turns: int) -> None:
        """See `DriverAbilities.fork`."""
        try:
            await in_thread(partial(fork_transcript, source, spec, turns, own_turns))
        except OSError as error:
            raise AgentUnavailable(
                f"The agent's folders cannot be used: {error.strerror}.", code="agent_folder_unusable"
            ) from error

    async def close(self) -> None:
        """Kill the agents that are still there; the engine has already closed its own."""
        await self._host.close()


def create(context: Context) -> ClaudeDriver:
    return ClaudeDriver(DriverConfig.from_context(context))

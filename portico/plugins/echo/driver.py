"""The driver ``echo``: for benchmarks, and for tests of the parts that carry events, not of those that make them."""

from __future__ import annotations

from weakref import WeakSet

from portico.core.agent import AgentOptions, AgentSpec
from portico.plugins.echo.echo_agent import EchoAgent


class EchoDriver:
    """An implementation of `portico.core.agent.AgentDriver`. Agents keep nothing between turns: each start resumes."""

    name = "echo"
    needs_credentials = False
    capabilities = frozenset(
        {"interrupt", "steer", "permissions", "resume", "claim", "set_model", "set_permission_mode"}
        | {"documents", "output_schema"}
    )

    def __init__(self) -> None:
        self._agents: WeakSet[EchoAgent] = WeakSet()

    def fixed(self, options: AgentOptions) -> AgentOptions:
        return AgentOptions()

    async def open(self) -> None: ...

    async def check(self) -> None: ...

    async def start(self, spec: AgentSpec) -> EchoAgent:
        agent = EchoAgent(spec)
        self._agents.add(agent)
        return agent

    async def close(self) -> None:
        for agent in list(self._agents):
            await agent.close()

"""Guards around drivers and agents, which may be third-party code: they limit the errors and the time of its calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from portico.core.abilities import (
    AgentAbilities,
    CommandInfo,
    ContextUse,
    DriverAbilities,
    LateAnswer,
    McpServer,
    ModelInfo,
    Rewind,
)
from portico.core.agent import Agent, AgentDriver, AgentOptions, AgentSpec, Decision, OwnTurn, Turn, needs_credentials
from portico.core.errors import AgentFailed, AgentUnavailable, PorticoError
from portico.core.events import AgentEvent, Aside, Complete
from portico.core.fork_history import ForkPoint
from portico.core.stranger import strangers

START_SECONDS = 120.0
CALL_SECONDS = 30.0
"""The time that a driver may take to start an agent, and an agent for any call but a turn."""

log = logging.getLogger("portico.driver")


class GuardedAgent:
    """An `Agent` whose calls, except `run`, raise only our errors and, except `watch`, end within `CALL_SECONDS`."""

    def __init__(self, agent: Agent, driver: str) -> None:
        self._agent = agent
        self._able = cast(AgentAbilities, agent)  # as far as its driver's capabilities say so
        self._driver = driver
        self.guards: Sequence[Path] = getattr(agent, "guards", ())

    def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        return self._agent.run(turn)  # a turn has its own limit, and `TurnRun` handles every error

    async def watch(self) -> OwnTurn | Aside:
        async with _kept(self._driver, "watch", AgentFailed):
            return await self._agent.watch()

    async def claim(self, spec: AgentSpec) -> None:
        async with _kept(self._driver, "claim", AgentFailed, CALL_SECONDS):
            await self._agent.claim(spec)

    async def configure(self, options: AgentOptions) -> None:
        async with _kept(self._driver, "configure", AgentFailed, CALL_SECONDS):
            await self._agent.configure(options)

    async def steer(self, turn: Turn) -> None:
        async with _kept(self._driver, "steer", AgentFailed, CALL_SECONDS):
            await self._agent.steer(turn)

    async def interrupt(self) -> None:
        async with _kept(self._driver, "interrupt", AgentFailed, CALL_SECONDS):
            await self._agent.interrupt()

    async def answer(self, request_id: str, decision: Decision) -> None:
        async with _kept(self._driver, "answer", AgentFailed, CALL_SECONDS):
            await self._agent.answer(request_id, decision)

    def go_on(self, late: LateAnswer) -> AsyncIterator[AgentEvent]:
        return self._able.go_on(late)

    async def part(self) -> Complete:
        async with _kept(self._driver, "part", AgentFailed, CALL_SECONDS):
            return await self._able.part()

    async def context(self) -> ContextUse:
        async with _kept(self._driver, "context", AgentFailed, CALL_SECONDS):
            return await self._able.context()

    async def commands(self) -> Sequence[CommandInfo]:
        async with _kept(self._driver, "commands", AgentFailed, CALL_SECONDS):
            return await self._able.commands()

    async def mcp(self) -> Sequence[McpServer]:
        async with _kept(self._driver, "mcp", AgentFailed, CALL_SECONDS):
            return await self._able.mcp()

    async def models(self) -> Sequence[ModelInfo]:
        async with _kept(self._driver, "models", AgentFailed, CALL_SECONDS):
            return await self._able.models()

    async def stop_task(self, task_id: str) -> None:
        async with _kept(self._driver, "stop_task", AgentFailed, CALL_SECONDS):
            await self._able.stop_task(task_id)

    async def rewind(self, turn_id: str, *, dry_run: bool) -> Rewind:
        async with _kept(self._driver, "rewind", AgentFailed, CALL_SECONDS):
            return await self._able.rewind(turn_id, dry_run=dry_run)

    async def close(self) -> None:
        try:
            async with _kept(self._driver, "close", AgentFailed, CALL_SECONDS):
                await self._agent.close()
        except PorticoError as failure:
            log.error("%s", failure.detail)


class GuardedDriver:
    """An `AgentDriver` that raises only our errors, and whose calls end in time."""

    def __init__(self, name: str, driver: AgentDriver) -> None:
        """``name`` is the name under which the driver is registered, whatever it calls itself."""
        self.name = name
        self.capabilities = driver.capabilities
        self.needs_credentials = needs_credentials(driver)
        self._driver = driver

    def fixed(self, options: AgentOptions) -> AgentOptions:
        return self._driver.fixed(options)

    async def open(self) -> None:
        async with _kept(self.name, "open", AgentUnavailable, START_SECONDS):
            await self._driver.open()

    async def check(self) -> None:
        async with _kept(self.name, "check", AgentUnavailable, CALL_SECONDS):
            await self._driver.check()

    async def start(self, spec: AgentSpec) -> Agent:
        async with _kept(self.name, "start", AgentUnavailable, START_SECONDS):
            return GuardedAgent(await self._driver.start(spec), self.name)

    async def fork(self, source: AgentSpec, spec: AgentSpec, point: ForkPoint) -> None:
        async with _kept(self.name, "fork", AgentUnavailable, START_SECONDS):
            turns = None if point.at_the_end else point.callers
            await cast(DriverAbilities, self._driver).fork(source, spec, turns, point.own_turns)

    async def close(self) -> None:
        try:
            async with _kept(self.name, "close", AgentUnavailable, START_SECONDS):
                await self._driver.close()
        except PorticoError as failure:
            log.error("%s", failure.detail)


@asynccontextmanager
async def _kept(
    driver: str, method: str, error: type[PorticoError], seconds: float | None = None
) -> AsyncIterator[None]:
    try:
        # Not a cancel scope: a driver may enter a scope or task group of its own in `open`, and exit it in `close`.
        with strangers():
            async with asyncio.timeout(seconds):
                yield
    except PorticoError:
        raise
    except TimeoutError:
        detail = f"the driver {driver} has hung: {method} took over {seconds:g} s"
        raise error(detail, code="driver_hung") from None
    except Exception:
        log.exception("the driver %s failed in %s", driver, method)
        raise error(f"the driver {driver} failed; the server's log says more", code="driver_failed") from None

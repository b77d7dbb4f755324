"""Agents started ahead, so that a new session need not wait for one."""

from __future__ import annotations

import logging
import math
import uuid

import anyio
from anyio.abc import TaskGroup

from portico.core.agent import Agent, AgentDriver, AgentOptions, AgentSpec
from portico.core.errors import PorticoError
from portico.core.folders import Folders
from portico.core.slots import ProcessSlots

BACK_OFF = 1.0, 60.0
"""The seconds before the next try after a failed start or an exit: the first pause, which doubles, and the longest."""

PAUSE = 1.0
"""The seconds between a claim and the next start: a start takes a core, which the claimer's first turn needs more."""

log = logging.getLogger("portico.pool")


class Pooled:
    """An agent without a session. It holds a process slot, and is the first to give it up."""

    def __init__(self, spec: AgentSpec, agent: Agent) -> None:
        self.spec = spec
        self.agent = agent
        self.unwanted = anyio.Event()

    def give_up_process(self) -> None:
        self.unwanted.set()


class Pool:
    """A pool of ``size`` ready agents of one driver. It starts one at a time, as long as process slots are free."""

    def __init__(
        self,
        driver: AgentDriver,
        options: AgentOptions,
        size: int,
        *,
        slots: ProcessSlots,
        folders: Folders,
    ) -> None:
        self._driver = driver
        self._options = options
        self._size = size
        self._slots = slots
        self._folders = folders
        self._ready: list[Pooled] = []
        self._delay = 0.0
        self._not_before = -math.inf

    @property
    def ready(self) -> int:
        """The number of agents that could be claimed."""
        return len(self._ready)

    def claim(self, options: AgentOptions) -> Pooled | None:
        """Return an agent that can be claimed for ``options``, with its process slot; None if there is none."""
        if not self._ready or self._driver.fixed(options) != self._driver.fixed(self._options):
            return None
        pooled = self._ready.pop(0)
        self._slots.stir(pooled)
        self._delay = 0.0
        self._not_before = anyio.current_time() + PAUSE
        pooled.unwanted.set()  # by the pool, so that `_keep` ends
        self._slots.freed.set()
        return pooled

    async def run(self) -> None:
        """Keep the pool full until cancelled; then stop the agents that nobody has claimed."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.sleep(max(0.0, self._not_before - anyio.current_time()))
                if len(self._ready) >= self._size or not self._slots.take_free():
                    await self._slots.freed.wait()
                    continue
                try:
                    await self._start(tasks)
                except Exception as problem:  # a failing driver must not end the sessions too
                    self._back_off()
                    self._slots.give_back()
                    log.warning("no agent could be started ahead: %s", problem)

    def _back_off(self) -> None:
        self._delay = min(max(self._delay * 2, BACK_OFF[0]), BACK_OFF[1])
        self._not_before = anyio.current_time() + self._delay

    async def _start(self, tasks: TaskGroup) -> None:
        agent_id = str(uuid.uuid4())
        cwd = await self._folders.workspace(agent_id)
        try:
            await self._driver.check()
            spec = AgentSpec(agent_id, self._folders.agent(agent_id), cwd, self._options)
            await self._folders.check(spec)
            agent = await self._driver.start(spec)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._folders.drop(agent_id, cwd)
            raise
        pooled = Pooled(spec, agent)
        self._ready.append(pooled)
        self._slots.rest(pooled, first=True)
        tasks.start_soon(self._keep, pooled)

    async def _keep(self, pooled: Pooled) -> None:
        """Keep the agent until it is claimed, unwanted, or dead; stop it unless it was claimed."""
        began = anyio.current_time()
        try:
            async with anyio.create_task_group() as tasks:

                async def watch() -> None:
                    try:
                        await pooled.agent.watch()
                    except PorticoError as failure:
                        log.warning("an agent that was started ahead has ended: %s", failure.detail)
                    if pooled in self._ready:
                        if anyio.current_time() - began > BACK_OFF[1]:
                            self._delay = 0.0  # the start did not kill it
                        self._back_off()
                    pooled.unwanted.set()

                tasks.start_soon(watch)
                await pooled.unwanted.wait()
                tasks.cancel_scope.cancel()
        finally:
            if pooled in self._ready:
                self._ready.remove(pooled)
                self._slots.leave(pooled)
                with anyio.CancelScope(shield=True):
                    await pooled.agent.close()
                    await self._folders.drop(pooled.spec.agent_id, pooled.spec.cwd)
                self._slots.give_back()
                self._slots.gone(pooled)

"""The models that agents of each driver offer, asked of an agent that is started for that alone."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import cast

import anyio
from anyio.abc import TaskGroup

from portico.core.abilities import AgentAbilities, ModelInfo
from portico.core.agent import AgentDriver, AgentOptions, AgentSpec
from portico.core.calls import CALL_SECONDS
from portico.core.errors import PorticoError, Unavailable
from portico.core.folders import Folders
from portico.core.slots import ProcessSlots

log = logging.getLogger("portico.driver")

KEEP_SECONDS = 600.0
"""The time that a list counts: the program of the driver may be replaced meanwhile."""


class _Lookup:
    def __init__(self) -> None:
        self.began = anyio.current_time()
        self.done = anyio.Event()
        self.models: Sequence[ModelInfo] = ()
        self.error: PorticoError | None = Unavailable("the server is stopping", code="agent_unavailable")


class ModelLists:
    """The lists of models, by driver. Callers wait at most `CALL_SECONDS`, and share one agent."""

    def __init__(self, slots: ProcessSlots, folders: Folders) -> None:
        self._slots = slots
        self._folders = folders
        self._lookups: dict[str, _Lookup] = {}

    async def of(self, driver: AgentDriver, options: AgentOptions, tasks: TaskGroup) -> Sequence[ModelInfo]:
        """Return the models of ``driver``. The task that asks runs in ``tasks``, so it outlives a caller.

        Raises `Unavailable` (``agent_busy``, ``agent_unavailable``).
        """
        lookup = self._lookups.get(driver.name)
        old = lookup is not None and anyio.current_time() - lookup.began > KEEP_SECONDS
        if lookup is None or (lookup.done.is_set() and (old or lookup.error is not None)):
            lookup = self._lookups[driver.name] = _Lookup()
            tasks.start_soon(self._look_up, lookup, driver, options)
        with anyio.move_on_after(CALL_SECONDS):
            await lookup.done.wait()
        if not lookup.done.is_set():
            raise Unavailable("the agent is busy; try again", code="agent_busy")
        if lookup.error is not None:
            raise Unavailable(lookup.error.detail, code="agent_unavailable")
        return lookup.models

    async def _look_up(self, lookup: _Lookup, driver: AgentDriver, options: AgentOptions) -> None:
        try:
            await self._slots.take(CALL_SECONDS)
            try:
                lookup.models, lookup.error = await self._ask(driver, options), None
            finally:
                self._slots.give_back()
        except PorticoError as error:
            lookup.error = error
        except Exception:
            log.exception("the models of the driver %s can't be listed", driver.name)
            lookup.error = PorticoError("a fault of the server; its log says more")
        finally:
            lookup.done.set()

    async def _ask(self, driver: AgentDriver, options: AgentOptions) -> Sequence[ModelInfo]:
        agent_id = str(uuid.uuid4())
        cwd = await self._folders.workspace(agent_id)
        try:
            agent = await driver.start(AgentSpec(agent_id, self._folders.agent(agent_id), cwd, options))
            try:
                return await cast(AgentAbilities, agent).models()
            finally:
                with anyio.CancelScope(shield=True):
                    await agent.close()
        finally:
            with anyio.CancelScope(shield=True):
                await self._folders.drop(agent_id, cwd)

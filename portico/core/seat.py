"""The seat of a session's agent: empty, or filled by an agent that holds a process slot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from portico.core.agent import Agent, AgentDriver, AgentOptions, AgentSpec, Suggestion
from portico.core.folders import Folders
from portico.core.pool import Pooled
from portico.core.slots import ProcessSlots
from portico.core.suggestions import open_folders


class Seat:
    """The seat of one session's agent. One task uses it; only `hurry` may be called from any task."""

    def __init__(self, driver: AgentDriver, slots: ProcessSlots, folders: Folders, *, wait: float) -> None:
        self.agent: Agent | None = None
        self.driver = driver
        self.started_at: float | None = None
        """The time when the agent was started, or adopted, in seconds since 1970; None if there is none."""
        self._slots = slots
        self._folders = folders
        self._wait = wait
        self._hurried = False
        self._options: AgentOptions | None = None
        self._places: list[tuple[int, int] | None] | None = None

    @property
    def ready(self) -> Agent | None:
        """The agent, unless it was started ahead and is not claimed yet."""
        return None if self._options is None else self.agent

    async def start(self, spec: AgentSpec) -> Agent:
        """Fill the seat, and wait for a process slot if none is free. Raises `AgentUnavailable`."""
        await self._slots.take(self._wait)
        try:
            await self._folders.check(spec)
            self.agent = await self.driver.start(await self._folders.with_git(spec))
        except BaseException:
            self._slots.give_back()
            raise
        self._options, self.started_at = spec.options, time.time()
        self._places = await self._folders.identities(spec, self._guards)
        return self.agent

    @property
    def _guards(self) -> Sequence[Path]:
        return getattr(self.agent, "guards", ())

    async def is_out_of_place(self, spec: AgentSpec) -> bool:
        """Tell whether a folder in which the agent works, or one of its `guards`, was replaced since the last time.

        Raises `AgentUnavailable` (``workspace_moved``) if a folder is gone.
        """
        before, self._places = self._places, await self._folders.identities(spec, self._guards)
        return before is not None and before != self._places

    def adopt(self, pooled: Pooled) -> None:
        """Fill the seat with an agent that was started ahead, and its slot; `prepare` claims it for the session."""
        self.agent, self.started_at = pooled.agent, time.time()
        self._options = self._places = None

    def note_mode(self, mode: str) -> None:
        """Note that the agent is in this permission mode now."""
        if self._options is not None:
            self._options = self._options.with_changes(permission_mode=mode)

    def note_model(self, model: str) -> None:
        """Note that the agent has this model now."""
        if self._options is not None:
            self._options = self._options.with_changes(model=model)

    def note_rules(self, rules: tuple[Suggestion, ...]) -> None:
        """Note that the agent keeps these rules now."""
        if self._options is not None:
            self._options = self._options.with_changes(permission_rules=rules)

    async def open_folders(self, rules: Sequence[Suggestion], cwd: str) -> Mapping[str, str]:
        """Do as `suggestions.open_folders`."""
        found: dict[str, str] = {}
        for rule in rules:
            found |= await open_folders([rule], cwd, self._folders)
        return found

    def options(self, mode: str) -> AgentOptions | None:
        """Return the agent's options with another permission mode; None if it is not claimed yet."""
        return self._options and self._options.with_changes(permission_mode=mode)

    @property
    def output_schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema that the agent was started with."""
        return None if self._options is None else self._options.output_schema

    def fits(self, options: AgentOptions) -> bool:
        """Tell whether the agent can work with ``options``; if not, it takes a new one."""
        if self._options is None:
            return True
        mode = self._options.permission_mode
        wanted = self.driver.fixed(options.with_changes(permission_mode=mode))
        return wanted == self.driver.fixed(self._options)

    async def prepare(self, spec: AgentSpec, *, surely: bool = False) -> None:
        """Give the agent the options of ``spec``; with ``surely``, even if it seems to have them.

        Raises `AgentFailed`; then the seat should be emptied.
        """
        if self.agent is None or (self._options == spec.options and not surely):
            return
        if self._options is None:
            await self.agent.claim(spec)
        else:
            await self.agent.configure(spec.options)
        self._options = spec.options

    def hurry(self) -> None:
        """Don't wait for the agent to stop from now on: kill it rather than ask it."""
        self._hurried = True

    async def empty(self) -> None:
        """Stop the agent, if there is one, in bounded time. Cancellation of the caller does not stop this."""
        agent, self.agent, self.started_at = self.agent, None, None
        if agent is None:
            return
        try:
            with anyio.CancelScope(shield=True) as scope:
                if self._hurried:
                    scope.cancel()
                await agent.close()
        finally:
            self._slots.give_back()

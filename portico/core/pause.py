"""The pause of a turn that waits for a person: its agent gives up its process, and another goes on with the answer."""

from __future__ import annotations

from typing import Protocol

import anyio

from portico.core.agent import Agent, Decision
from portico.core.errors import AgentUnavailable
from portico.core.events import AgentEvent, Complete, PermissionRequest, kind_of
from portico.core.permissions import Permissions

KINDS = ("question", "plan")
"""The kinds of requests that outlive their agent: an MCP server that has asked for data ends with the agent."""


class Process(Protocol):
    """The process of a turn's agent, which a turn that waits for a person can do without."""

    def rest(self, can_rest: bool) -> None:
        """Note whether the process could be given up now."""

    async def part(self) -> Complete:
        """Give up the process. Return what the agent has used of the turn."""

    async def come_back(self, starting: anyio.CancelScope) -> Agent:
        """Start an agent again. Raises `AgentUnavailable`, also when ``starting`` is cancelled."""


class Pause:
    """The pause of one turn. ``possible``: the driver's agents can be stopped at a question.

    ``request`` is the one for which the turn waits without an agent. Any task may set ``wanted``: somebody else needs
    the process. ``used`` is what agents have used of the turn that were stopped since.
    """

    def __init__(self, permissions: Permissions, process: Process, *, possible: bool) -> None:
        self.wanted = False
        self.request: PermissionRequest | None = None
        self.used: list[Complete] = []
        self._process = process
        self._resting = False  # the process could be given up
        self._starting = anyio.CancelScope()
        self._permissions = permissions
        self._possible = possible
        self._in_use: set[str] = set()  # the tools that the agent itself is using
        self._answer: Decision | None = None
        self._over = anyio.Event()

    def note(self, event: AgentEvent) -> None:
        """Note which tools are in use."""
        if "parent_tool_use_id" in event:
            return
        if event["type"] == "tool_use":
            self._in_use.add(event["tool_use_id"])
        elif event["type"] == "tool_result":
            self._in_use.discard(event["tool_use_id"])

    async def mind(self, *, busy: bool) -> None:
        """Let go of the process while the turn only waits for a person, if somebody else wants it."""
        request = None if busy else self._candidate()
        if (request is not None) is not self._resting:
            self._resting = request is not None
            self._process.rest(self._resting)
        if request is None:
            self.wanted = False
        elif self.wanted:
            self.request, self.wanted, self._resting = request, False, False
            self._answer, self._over = None, anyio.Event()
            self._starting = anyio.CancelScope()
            self.used.append(await self._process.part())

    def _candidate(self) -> PermissionRequest | None:
        """Return the request that is all the agent waits for, if its process could be given up meanwhile."""
        if not self._possible or len(self._permissions.pending) != 1:
            return None
        (request,) = self._permissions.pending
        alone = self._in_use == {request.get("tool_use_id")} and "parent_tool_use_id" not in request
        return request if alone and kind_of(request) in KINDS else None

    def end(self, answer: Decision | None) -> None:
        """End the pause with the answer; None if the turn is to stop."""
        if answer is None:
            self._starting.cancel()
        self._answer = answer
        self._over.set()

    async def over(self) -> tuple[Agent, PermissionRequest, Decision] | None:
        """Wait for the `end`, and for an agent that goes on with the answer; None if the turn is to stop."""
        await self._over.wait()
        request, answer = self.request, self._answer
        if request is None or answer is None:
            return None
        try:
            agent = await self._process.come_back(self._starting)
        except AgentUnavailable:
            if not self._starting.cancel_called:
                raise
            return None
        self._in_use.discard(request.get("tool_use_id", ""))
        self.request = None
        return agent, request, answer

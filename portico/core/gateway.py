"""The interface of the gateway through which a driver's agents reach the model API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from portico.core.agent import AgentSpec


class Door(Protocol):
    """One agent's door to the model API: a Unix socket of its own, which identifies the agent.

    ``environment`` has the variables that the agent needs to use the door; it holds no credential.
    """

    environment: Mapping[str, str]

    def admit(self, pid: int) -> None:
        """Let this process and its descendants use the door. Before that nobody may; a later call replaces it."""

    def hand_to(self, owner: str | None) -> None:
        """Charge what the agent spends to this principal from now on."""

    async def close(self) -> None:
        """End the agent's requests and remove the socket. May be called twice."""


class Gateway(Protocol):
    """A gateway, which adds the server's credential to the agents' requests to the model API."""

    async def open(self, spec: AgentSpec, folder: Path) -> Door:
        """Open a door for this agent, with its socket in ``folder``, which exists, is the agent's own and of mode 0700.

        The agent's owner is that of ``spec``, until `Door.hand_to`. Raises OSError.
        """

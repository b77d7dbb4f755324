"""What a driver needs of the gateway through which its agents reach the model API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from portico.core.agent import AgentSpec


class Door(Protocol):
    """One agent's way to the model API: a Unix socket of its own, which says who it is.

    ``environment`` is what the agent has to have in its environment to use it; there is no credential in it.
    """

    environment: Mapping[str, str]

    def admit(self, pid: int) -> None:
        """This process and its descendants may come through; before, nobody may, and a later call replaces it."""

    def hand_to(self, owner: str | None) -> None:
        """From now on what the agent spends is this principal's."""

    async def close(self) -> None:
        """End the agent's requests and remove the socket. May be called twice."""


class Gateway(Protocol):
    """Adds the server's credential to what agents ask of the model API."""

    async def open(self, spec: AgentSpec, folder: Path) -> Door:
        """A door for this agent, with its socket in ``folder``, which exists, is the agent's own and of mode 0700.

        The agent's owner is that of ``spec``, until `Door.hand_to`. Raises OSError.
        """

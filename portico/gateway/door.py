"""One agent's socket, which lets in only the processes of that agent."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from portico.gateway.account import Account
from portico.gateway.socket_peer import is_of

MAX_CONNECTIONS = 32
"""The most connections, and so requests at a time, of one agent: one for itself and one for each subagent at work."""

log = logging.getLogger("portico.gateway")


class Accepted(Protocol):
    """A connection that has been accepted."""

    @property
    def transport(self) -> asyncio.Transport: ...


class AgentDoor:
    """Implements `portico.core.gateway.Door`. ``account`` is the agent's, which outlives the door."""

    def __init__(
        self,
        path: Path,
        owner: str | None,
        environment: Mapping[str, str],
        open_doors: set[AgentDoor],
        account: Account,
    ) -> None:
        """``open_doors`` contains this door from `serve` to `close`."""
        self.path = path
        self.owner = owner
        self.account = account
        self.environment = environment
        self.connections: set[Accepted] = set()
        self._open_doors = open_doors
        self._pid: int | None = None
        self._told = False
        self._server: asyncio.AbstractServer | None = None

    def admit(self, pid: int) -> None:
        self._pid = pid

    def lets_in(self, connection: Any) -> bool:
        """Tell whether the process at the other end of the socket is one of the agent's. Log the first that is not."""
        if self._pid is not None and is_of(connection, self._pid):
            return True
        if not self._told:
            self._told = True
            log.warning("a process that is not of the agent of %s has been refused at %s", self.owner, self.path)
        return False

    def hand_to(self, owner: str | None) -> None:
        self.owner = owner

    def bind(self) -> socket.socket:
        """Return a listening socket at `path`, for this user alone. Raises OSError."""
        self.path.unlink(missing_ok=True)  # left by an agent that was killed with its server
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(str(self.path))
            self.path.chmod(0o600)
            listener.listen(MAX_CONNECTIONS)
        except BaseException:
            listener.close()
            raise
        return listener

    def serve(self, server: asyncio.AbstractServer) -> None:
        self._server = server
        self._open_doors.add(self)
        self.account.open = True

    async def close(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        self._open_doors.discard(self)
        self.account.open = False
        server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

"""The gateway: one app, one pool of connections to the model API, and a door for each agent."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import uvicorn
from anyio.abc import TaskStatus
from uvicorn.server import ServerState

from portico.core.agent import AgentSpec
from portico.core.errors import AgentUnavailable
from portico.gateway.agent_connection import AgentConnection
from portico.gateway.credential_health import CredentialHealth
from portico.gateway.door import AgentDoor
from portico.gateway.ledger import Ledger
from portico.gateway.relay import Relay
from portico.gateway.upstream import Upstream
from portico.http1.embedded import embedded

SOCKET = "api.sock"

PLACEHOLDER = "the-gateway-has-the-key"
"""The credential that agents are given: without one, CLI 2.1.330 sends no request at all."""

STOP_SECONDS = 5.0

log = logging.getLogger("portico.gateway")


class ModelGateway:
    """Implements `portico.core.gateway.Gateway`. It works while `run` runs."""

    def __init__(self, upstream: Upstream, ledger: Ledger) -> None:
        self._upstream = upstream
        self._ledger = ledger
        self.health = CredentialHealth()
        self._doors: set[AgentDoor] = set()
        self._state = ServerState()
        self._config: uvicorn.Config | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then close all doors. Raises `Unavailable` for an unusable proxy or CA file."""
        pool = await anyio.to_thread.run_sync(self._upstream.connect)
        async with pool:
            self._config = _config(Relay(self._upstream, pool, self._ledger, self.health))
            try:
                task_status.started()
                await anyio.sleep_forever()
            finally:
                self._config = None
                with anyio.CancelScope(shield=True):
                    for door in list(self._doors):
                        await door.close()
                    if tasks := self._state.tasks:
                        await asyncio.wait(tasks, timeout=STOP_SECONDS)

    async def open(self, spec: AgentSpec, folder: Path) -> AgentDoor:
        """See `portico.core.gateway.Gateway.open`. Raises `AgentUnavailable` while `run` does not run."""
        if self._config is None:
            raise AgentUnavailable("The gateway to the model API is not open.", code="not_open")
        account = self._ledger.account(spec.agent_id)
        door = AgentDoor(folder / SOCKET, spec.owner, self.environment(folder / SOCKET), self._doors, account)
        listener = door.bind()
        loop = asyncio.get_running_loop()
        make: Any = partial(AgentConnection, self._config, self._state, door)
        try:
            door.serve(await loop.create_unix_server(make, sock=listener))
        except BaseException:
            listener.close()
            raise
        return door

    def environment(self, path: Path) -> dict[str, str]:
        """Return the variables that an agent needs in its environment to use the socket at ``path``."""
        oauth = self._upstream.oauth_token is not None
        environment = {
            "ANTHROPIC_UNIX_SOCKET": str(path),
            "ANTHROPIC_BASE_URL": "http://localhost",  # https would be TLS on the socket; the name is never looked up
            # With a token the CLI asks for one more beta feature, and takes on some other duties.
            "CLAUDE_CODE_OAUTH_TOKEN" if oauth else "ANTHROPIC_API_KEY": PLACEHOLDER,
        }
        if self._upstream.is_the_api:  # otherwise the CLI leaves out fields that it thinks a proxy may not know
            environment["_CLAUDE_CODE_ASSUME_FIRST_PARTY_BASE_URL"] = "1"
        return environment


def _config(app: Relay) -> uvicorn.Config:
    config = embedded(
        app,
        http=AgentConnection,
        ws="none",
        date_header=False,
        timeout_keep_alive=86_400,  # closing a connection just when it is used again would cost a retry
    )
    config.load()
    return config

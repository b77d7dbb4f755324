"""One connection from an agent: uvicorn's, with limits, because the agent may be hostile."""

from __future__ import annotations

import asyncio

from uvicorn.config import Config
from uvicorn.server import ServerState

from portico.gateway.door import MAX_CONNECTIONS, AgentDoor
from portico.http1.measured import Measured


class AgentConnection(Measured):
    """A connection through ``door``. The state of its requests holds the door and the connection's ``transport``."""

    def __init__(self, config: Config, state: ServerState, door: AgentDoor) -> None:
        super().__init__(config, state, {"door": door})
        self._door = door

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
        self._door.connections.add(self)
        full = len(self._door.connections) > MAX_CONNECTIONS
        if full or not self._door.lets_in(transport.get_extra_info("socket")):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        super().connection_lost(exc)

    def too_large(self) -> None:
        self.transport.abort()

    def _should_upgrade(self) -> bool:
        return False

    def send_400_response(self, msg: str) -> None:
        self.transport.abort()

    def _unsupported_upgrade_warning(self) -> None:
        pass

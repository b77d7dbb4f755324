"""A dark server on the real network, and clients that reach it as users' clients do: by `portico.ziti.overlay`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpcore
import httpx
from websockets.asyncio.client import connect

from portico.ziti.overlay import DialFailed, Overlay, OverlayDialler, _Backend
from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.websocket import Client
from tests.ziti.network import Network

API = "http://localhost/claude"


@dataclass(slots=True)
class Dark:
    """The identity ``server`` may bind services of the role `ours`; who else is made may dial what it names."""

    network: Network
    folder: Path
    identity: Path
    binding: str
    """The policy that lets the server bind."""
    _people: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def on(cls, network: Network, folder: Path, *services: str, probed: bool = True) -> Dark:
        identity = network.identity("server", "servers")
        for service in services or ("portico",):
            network.service(service, "ours")
        made = cls(network, folder, identity, network.policy("Bind", ["#ours"], ["#servers"]))
        if probed:
            network.policy("Dial", ["#ours"], ["#servers"])
        return made

    def person(self, name: str, *services: str) -> None:
        self._people[name] = self.network.identity(name)
        self.network.policy("Dial", [f"@{service}" for service in services or ("portico",)], [f"@{name}"])

    def allow_binding(self) -> None:
        self.binding = self.network.policy("Bind", ["#ours"], ["#servers"])

    def settings(self, services: str = "portico=alice") -> dict[str, str]:
        return {
            "NETWORKING_MODE": "ziti",
            "ZITI_IDENTITY_FILE": str(self.identity),
            "ZITI_SERVICE_NAME": services,
            "PORTICO_DRIVER": "echo",
        }

    @asynccontextmanager
    async def server(
        self, services: str = "portico=alice", *, bound: bool = True, **variables: str
    ) -> AsyncIterator[RunningServer]:
        """``bound``: once the network knows of its services, which it does a moment after the server."""
        async with running_server(self.folder, **(self.settings(services) | variables)) as server:
            for service in services.split(",") if bound else ():
                await self.terminators(1, 20, service.partition("=")[0])
            yield server

    @asynccontextmanager
    async def dialler(self, name: str = "alice", service: str = "portico") -> AsyncIterator[OverlayDialler]:
        dialler = OverlayDialler(Overlay(self._people[name], service, {"PATH": os.environ["PATH"]}))
        try:
            yield dialler
        finally:
            await dialler.close()

    @asynccontextmanager
    async def http(self, name: str = "alice", service: str = "portico") -> AsyncIterator[httpx.AsyncClient]:
        """Its connections break with the library that carries them: so one for each client."""
        async with self.dialler(name, service) as dialler:
            transport = httpx.AsyncHTTPTransport()
            # Not the client's own, which has at most ten connections.
            transport._pool = httpcore.AsyncConnectionPool(network_backend=_Backend(dialler), max_connections=None)
            async with httpx.AsyncClient(transport=transport, base_url=API, timeout=HANG_SECONDS) as client:
                yield client

    @asynccontextmanager
    async def websocket(self, path: str, name: str = "alice", service: str = "portico") -> AsyncIterator[Client]:
        async with self.dialler(name, service) as dialler:
            dialled = await dialler.dial()
            dialled.setblocking(False)
            async with connect(
                f"ws://localhost{path}", sock=dialled, compression=None, proxy=None, close_timeout=2
            ) as connection:
                yield Client(connection)

    async def reached(self, within: float, name: str = "alice", service: str = "portico") -> float:
        """Seconds until somebody new can reach the server again."""
        began = anyio.current_time()
        with anyio.fail_after(within):
            while True:
                try:
                    async with self.http(name, service) as http:
                        with anyio.move_on_after(20):
                            if (await http.get("http://localhost/healthz")).status_code == 200:
                                return anyio.current_time() - began
                except (httpx.TransportError, DialFailed):
                    pass
                await anyio.sleep(0.2)

    async def terminators(self, wanted: int, within: float, service: str = "portico") -> float:
        """Seconds until the controller knows of so many."""
        began = anyio.current_time()
        with anyio.fail_after(within):
            while self.network.terminators(service) != wanted:
                await anyio.sleep(0.05)
        return anyio.current_time() - began

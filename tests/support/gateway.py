"""A gateway before a model of the test's own, and an agent's side of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.abc import SocketAttribute, SocketStream

from portico.core.agent import AgentOptions, AgentSpec
from portico.gateway.door import AgentDoor
from portico.gateway.ledger import Ledger
from portico.gateway.model_gateway import ModelGateway
from portico.gateway.upstream import Upstream
from portico.testing.background import background
from tests.support.limits import HANG_SECONDS
from tests.support.talk import script

KEY = "sk-the-real-key"


@dataclass(slots=True)
class Gate:
    gateway: ModelGateway
    ledger: Ledger
    door: AgentDoor
    http: httpx.AsyncClient

    async def ask(
        self, *steps: Mapping[str, Any], stream: bool = False, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Answer a request for messages as the model does."""
        return await self.http.post("/v1/messages?beta=true", json=asking(*steps, stream=stream), headers=headers)


def asking(*steps: Mapping[str, Any], stream: bool = True, model: str = "claude-opus-5-5") -> dict[str, Any]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": script(*steps)}]}


def spec_in(folder: Path, owner: str | None = "alice") -> AgentSpec:
    return AgentSpec("agent", folder, folder, AgentOptions(), owner)


def through(door: AgentDoor) -> httpx.AsyncClient:
    """A client that comes through this door."""
    transport = httpx.AsyncHTTPTransport(uds=str(door.path))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=HANG_SECONDS, trust_env=False)


@asynccontextmanager
async def gate(folder: Path, url: str, *, budget: float | None = None, **upstream: Any) -> AsyncIterator[Gate]:
    """A gateway to ``url``, and one door of it, which is alice's."""
    ledger = Ledger(folder / "spending.json", budget)
    gateway = ModelGateway(Upstream(url, **{"api_key": KEY, **upstream}), ledger)
    async with background() as tasks:
        await ledger.open()
        tasks.start_soon(ledger.run)
        await tasks.start(gateway.run)
        door = await gateway.open(spec_in(folder), folder)
        door.admit(os.getpid())
        async with through(door) as http:
            yield Gate(gateway, ledger, door, http)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A TCP server that says these bytes to whoever speaks, and hangs up; its address, and what it was told."""
    heard: list[bytes] = []

    async def serve(stream: SocketStream) -> None:
        async with stream:
            heard.append(await stream.receive())
            await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, background() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.listeners[0].extra(SocketAttribute.local_port)  # noqa: S610
        yield f"127.0.0.1:{port}", heard

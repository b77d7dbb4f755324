"""A caller whose credentials are no longer valid gets nothing more and is not heard, however it delays the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from websockets.frames import Opcode

from portico.plugins.memory_store.store import MemoryStore
from portico.transports import streams
from tests.support.limits import HANG_SECONDS
from tests.support.serving import Served, serving
from tests.support.websocket import close_code, frames, open_raw
from tests.support.websocket import frame as raw_frame
from tests.transports.test_owners import put

pytestmark = pytest.mark.anyio

V1 = "sec-websocket-protocol: portico.v1"


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "RECHECK_SECONDS", 0.05)


def message(**members: Any) -> bytes:
    return raw_frame(Opcode.TEXT, json.dumps(members).encode())


async def short_ticket(served: Served, scope: str) -> str:
    made = await served.client.post("/claude/sessions/s/tickets", json={"scope": scope, "ttl": 2})
    text: str = made.json()["ticket"]
    return text


async def open_socket(served: Served, ticket: str) -> SocketStream:
    stream = await served.connect()
    await open_raw(stream, f"/claude/ws/s?after=0&ticket={ticket}", V1, token=None)
    return stream


async def test_a_client_that_keeps_asking_to_resume_is_ended(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        stream = await open_socket(served, await short_ticket(served, "read"))
        many = message(type="resume", after=0) * 50

        async def flood() -> None:
            try:
                while True:
                    await stream.send(many)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flood)
                assert await close_code(stream) == 4401
                tasks.cancel_scope.cancel()


async def test_a_client_that_takes_nothing_is_not_heard_any_more(tmp_path: Path) -> None:
    store = MemoryStore()
    async with serving(tmp_path, store=store) as served:
        await put(store, size=1_000_000)  # more than fits between the two of them
        ticket = await short_ticket(served, "query")
        stream = await open_socket(served, ticket)
        before = (await served.client.get("/claude/sessions/s")).json()
        del served.client.headers["authorization"]
        with anyio.fail_after(HANG_SECONDS):
            async with served.client.stream("GET", f"/claude/sessions/s/events?after=18&ticket={ticket}") as other:
                async for _ in other.aiter_raw():  # it ends once the server knows that the ticket has expired
                    pass
        await stream.send(message(type="query", content="too late", id=1))
        said = [data async for opcode, data in frames(stream) if opcode == Opcode.TEXT]
        assert not [data for data in said if b'"id":1' in data]
        after = await served.client.get("/claude/sessions/s", headers={"authorization": "Bearer alice-secret"})
        assert after.json() == before

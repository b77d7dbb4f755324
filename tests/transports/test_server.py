"""The end of serving."""

import asyncio
import json
import signal
import socket
from pathlib import Path
from urllib.parse import quote, urlsplit

import anyio
import pytest

from portico.core.engine import Engine
from portico.core.principal import Principal
from portico.core.requests import SessionView
from portico.transports import server, streams
from tests.support.limits import HANG_SECONDS, NEVER_SECONDS
from tests.support.serving import get, serving
from tests.support.sse import events

pytestmark = pytest.mark.anyio

ENDLESS = json.dumps({"deltas": None, "gap": 0.01})
EVENTS = "/claude/sessions/s/events"


async def test_endless_streams_end_in_order_and_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FINISH_SECONDS", NEVER_SECONDS)  # when they would be cut
    monkeypatch.setattr(server, "FINISH_SECONDS", NEVER_SECONDS)
    async with serving(tmp_path) as served:
        await served.session()
        await served.session("quiet")
        clean = 0

        async def watch(path: str, ready: anyio.Event) -> None:
            nonlocal clean
            async with served.client.stream("GET", path) as answer:
                async for _ in events(answer):
                    ready.set()
            clean += 1  # httpx raises where a stream is cut off

        async with anyio.create_task_group() as tasks:
            for path in (f"/claude/stream/s?query={quote(ENDLESS)}", EVENTS, "/claude/sessions/quiet/events"):
                ready = anyio.Event()
                tasks.start_soon(watch, path, ready)
                await ready.wait()
            with anyio.fail_after(HANG_SECONDS):
                await served.stop()
        assert clean == 3
        with pytest.raises(OSError):
            await served.connect()


async def test_who_does_not_read_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FINISH_SECONDS", 0.5)
    async with serving(tmp_path) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 20, "size": 1024 * 1024}))
        clients = []
        for request in (get(EVENTS), get(EVENTS + "?live=false"), get(EVENTS)[:-5], b""):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.connect(("127.0.0.1", urlsplit(served.url).port))
            client.sendall(request)
            clients.append(client)
        for client in clients[:2]:
            await anyio.wait_readable(client)
        with anyio.fail_after(HANG_SECONDS):
            await served.stop()
        for client in clients:
            client.close()


async def test_a_request_that_runs_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end = anyio.Event(), anyio.Event()
    real = Engine.session

    async def slow(self: Engine, principal: Principal, session_id: str) -> SessionView:
        began.set()
        await may_end.wait()
        return await real(self, principal, session_id)

    async with serving(tmp_path) as served:
        await served.session()
        monkeypatch.setattr(Engine, "session", slow)

        async def ask() -> None:
            assert (await served.client.get("/claude/sessions/s")).status_code == 200

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await began.wait()
            tasks.start_soon(served.stop)
            may_end.set()


async def test_a_handler_that_hangs_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FINISH_SECONDS", 0.2)
    monkeypatch.setattr(server, "HANDLER_SECONDS", 1)
    began, ended = anyio.Event(), False

    async def hangs(self: Engine, principal: Principal, session_id: str) -> None:
        nonlocal ended
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended = True

    async with serving(tmp_path) as served:
        monkeypatch.setattr(Engine, "session", hangs)
        await served.raw(get("/claude/sessions/s"))
        await began.wait()
        with anyio.fail_after(HANG_SECONDS):
            await served.stop()
        assert ended


async def test_it_leaves_signals_and_other_servers_alone_and_no_task_behind(tmp_path: Path) -> None:
    tasks = asyncio.all_tasks()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hi")
        assert {number: signal.getsignal(number) for number in before} == before
    assert asyncio.all_tasks() == tasks

"""Doors: whose they are, what they cost, and that they close."""

from __future__ import annotations

import gc
import os
import resource
import stat
import tracemalloc
from pathlib import Path

import anyio
import httpx
import pytest

from portico.core.errors import AgentUnavailable
from portico.gateway.ledger import Ledger
from portico.gateway.model_gateway import ModelGateway
from portico.gateway.upstream import Upstream
from portico.plugins.demo.model_server import serve_model
from tests.support.gateway import answering, asking, gate, spec_in, through
from tests.support.limits import HANG_SECONDS
from tests.support.programs import needs

pytestmark = pytest.mark.anyio


async def test_the_socket_is_the_users_alone_and_goes_with_its_door(tmp_path: Path) -> None:
    async with serve_model() as model, gate(tmp_path, model.url) as open_gate:
        path = Path(open_gate.door.environment["ANTHROPIC_UNIX_SOCKET"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await open_gate.door.close()
        await open_gate.door.close()
        assert not path.exists()
        with pytest.raises(httpx.TransportError):
            await open_gate.ask({"say": "x"})
        again = await open_gate.gateway.open(spec_in(tmp_path), tmp_path)
        again.admit(os.getpid())
        async with through(again) as http:
            assert (await http.post("/v1/messages", json=asking({"say": "x"}))).status_code == 200


async def test_a_socket_that_was_left_behind_is_taken_over(tmp_path: Path) -> None:
    async with answering(b"") as (address, _):
        for _ in range(2):
            async with gate(tmp_path, f"http://{address}") as open_gate:
                path = open_gate.door.path
            path.touch()


async def test_a_door_that_closes_ends_what_came_through_it(tmp_path: Path) -> None:
    async with serve_model() as model, gate(tmp_path, model.url) as open_gate:
        with anyio.fail_after(HANG_SECONDS), pytest.raises(httpx.RemoteProtocolError):
            async with open_gate.http.stream("POST", "/v1/messages", json=asking({"say": "a b", "stall": 1})) as answer:
                await open_gate.door.close()
                await answer.aread()
        with anyio.fail_after(HANG_SECONDS):
            while model.model._streams:
                await anyio.sleep(0.01)


async def test_without_its_task_there_is_no_door(tmp_path: Path) -> None:
    gateway = ModelGateway(Upstream(), Ledger(tmp_path / "spending.json", None))
    with pytest.raises(AgentUnavailable):
        await gateway.open(spec_in(tmp_path), tmp_path)


@needs("curl")
async def test_only_the_agent_and_what_descends_from_it_comes_through(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_model() as model, gate(tmp_path, model.url) as open_gate:
        ask = f"curl -s -o /dev/null --unix-socket {open_gate.door.path} -d {{}} http://x/v1/messages"
        async with await anyio.open_process(["sh", "-c", f"read go; {ask}; true; {ask} & wait $!"]) as other:
            open_gate.door.admit(other.pid)
            with pytest.raises(httpx.TransportError):
                await open_gate.ask({"say": "x"})
            with pytest.raises(httpx.TransportError):
                await open_gate.ask({"say": "x"})
            assert not model.model.requests and caplog.text.count("has been refused") == 1
            assert other.stdin is not None
            await other.stdin.send(b"go\n")
            assert await other.wait() == 0
        assert len(model.model.requests) == 2


async def test_an_open_door_costs_next_to_nothing(tmp_path: Path) -> None:
    count = min(500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    async with answering(b"") as (address, _), gate(tmp_path, f"http://{address}") as open_gate:
        tasks = len(anyio.get_running_tasks())
        folders = [tmp_path / str(number) for number in range(count)]
        for folder in folders:
            folder.mkdir()
        gc.collect()
        tracemalloc.start()
        doors = [await open_gate.gateway.open(spec_in(folder), folder) for folder in folders]
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(anyio.get_running_tasks()) == tasks
        assert size / count < 4096
        for door in doors:
            await door.close()

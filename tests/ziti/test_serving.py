"""A dark server: everything goes over the Ziti service, and nothing listens."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.agents import gone_soon, live
from tests.support.dark import dark_server, deltas, family, follow, listener, listening, log_of
from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer
from tests.support.sight import count_descriptors, sees_servers
from tests.support.talk import Event, Talk, script, text
from tests.support.ziti import Network, Shape
from tests.support.ziti import network as standin

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

both = pytest.mark.parametrize("shape", ["0.6", "1.x"])

API = "http://localhost/claude"


@dataclass(frozen=True, slots=True)
class Dark:
    net: Network
    server: RunningServer


both_shared = pytest.mark.parametrize("running", ["0.6", "1.x"], indirect=True, scope="module")
one_shared = pytest.mark.parametrize("running", ["0.6"], indirect=True, scope="module")


@pytest.fixture(scope="module")
async def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dark]:
    folder = tmp_path_factory.mktemp("shared")
    async with standin(folder, request.param) as net, dark_server(folder, net) as server:
        yield Dark(net, server)


@pytest.fixture
async def dark(running: Dark) -> AsyncIterator[Dark]:
    """A server for the tests that leave it as it was, but for their session."""
    yield running
    async with running.net.http("portico", base_url=API) as http:
        assert (await http.delete("/sessions/s?purge=true")).status_code in (204, 404)


async def received(stream: socket.socket) -> bytes:
    with anyio.fail_after(HANG_SECONDS):
        await anyio.wait_readable(stream)
    return stream.recv(10_000)


@both_shared
async def test_turns_over_sse_and_websocket(dark: Dark) -> None:
    net, server = dark.net, dark.server
    assert server.url == "ziti:portico"
    async with net.http("portico", base_url=API) as http:
        await Talk(http).open(session_id="s")
        assert text(await Talk(http).turn("s", "over the air")) == "over the air"
    async with net.websocket("portico") as client:
        await client.send("and back")
        assert text(await client.until("complete")) == "and back"
    assert "POST /claude/stream/s 200" in log_of(server) and "alice" in log_of(server)
    assert "over portico by" in log_of(server)


@pytest.mark.real_cli
async def test_a_turn_of_the_real_cli(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net:
        async with dark_server(tmp_path, net, PORTICO_DRIVER="claude-code") as server:
            async with net.http("portico", base_url=API) as http:
                await Talk(http).open(session_id="s")
                assert text(await Talk(http).turn("s", script({"say": "from the model"}))) == "from the model"
            assert list(listening(server)) == []


@both_shared
@sees_servers
async def test_no_process_of_the_server_listens(dark: Dark) -> None:
    net, server = dark.net, dark.server
    async with net.http("portico", base_url=API) as http:
        await Talk(http).open(session_id="s")
        await Talk(http).start("s", deltas(50, 0.02))
        await Talk(http).until("s", "delta")
        assert len(family(server)) >= 2
        for process in family(server):
            assert not [one for one in process.net_connections(kind="unix") if one.laddr]
        assert list(listening(server)) == []


async def test_both_ways_at_once(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net, NETWORKING_MODE="http,ziti") as server:
        async with net.http("portico", base_url=API) as dark, server.http() as http:
            await Talk(dark).open(session_id="s")
            assert (await Talk(http).session("s"))["owner"] == "alice"
            listener(server).kill()
            assert (await http.get(f"{server.url}/readyz")).status_code == 200  # not hurt
            await net.bound("portico", 0)
            while "transport ziti" not in (await http.get(f"{server.url}/readyz")).json().get("failed", {}):
                await anyio.sleep(0.02)
            await net.bound("portico")
            while "failed" in (await http.get(f"{server.url}/readyz")).json():
                await anyio.sleep(0.05)
            async with net.http("portico", base_url=API) as again:
                assert (await Talk(again).session("s"))["owner"] == "alice"
        assert "it was killed (SIGKILL); trying again" in log_of(server)


@both
async def test_a_listener_killed_in_mid_stream_loses_nothing(tmp_path: Path, shape: Shape) -> None:
    async with standin(tmp_path, shape) as net, dark_server(tmp_path, net) as server:
        async with net.http("portico", base_url=API) as http:
            await Talk(http).open(session_id="s")
            await Talk(http).start("s", deltas(100, 0.02), turn_id="t")
            seen: list[Event] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, http, seen, 105)
                with anyio.fail_after(HANG_SECONDS):
                    while len(seen) < 10:
                        await anyio.sleep(0.01)
                listener(server).kill()
            assert 0 < len(seen) < 100
            await net.bound("portico")
            await follow(http, seen, 105)
            assert [event["seq"] for event in seen] == list(range(1, 106))
            assert sum(event["type"] == "delta" for event in seen) == 100
            history = await Talk(http).history("s")
        assert seen == history[: len(seen)]


async def test_two_hundred_streams_at_once(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net) as server:
        net.moods("portico", dial_wait=HANG_SECONDS)
        async with net.http("portico", base_url=API) as http:
            await Talk(http).open(session_id="s")
            counts: list[int] = []
            async with anyio.create_task_group() as tasks:

                async def watch() -> None:
                    seen: list[Event] = []
                    await follow(http, seen, 15)
                    counts.append(len(seen))

                for _ in range(200):
                    tasks.start_soon(watch)
                with anyio.fail_after(2 * HANG_SECONDS):
                    while (await net.state())[0]["open"] < 200:
                        await anyio.sleep(0.05)
                await Talk(http).turn("s", deltas(10, 0.01))
        assert counts == [15] * 200
        assert listener(server).memory_info().rss < 200 * 2**20


# The larger number would use up a backlog of 2,048, which is the usual one.
@pytest.mark.parametrize("many", [200, pytest.param(2500, marks=pytest.mark.long)])
async def test_many_connections_leave_nothing_behind(tmp_path: Path, many: int) -> None:
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net) as server:
        process = psutil.Process(server.process.pid)

        async def request() -> None:
            with await net.dial("portico") as stream:
                stream.setblocking(False)
                stream.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                answer = [await received(stream)]
                while answer[-1]:
                    answer.append(await received(stream))
                assert answer[0].startswith(b"HTTP/1.1 200 ")

        for _ in range(10):
            await request()
        ours, theirs = count_descriptors(process), listener(server).num_fds()
        for _ in range(many // 10):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(request)
        with anyio.fail_after(HANG_SECONDS):
            while count_descriptors(process) > ours + 2 or listener(server).num_fds() > theirs + 2:
                await anyio.sleep(0.05)


@one_shared
async def test_who_closes_gets_through_to_the_other_end(dark: Dark) -> None:
    net = dark.net
    stream = await net.dial("portico")
    with stream:
        stream.settimeout(HANG_SECONDS)
        await anyio.to_thread.run_sync(stream.sendall, b"nonsense\r\n\r\n")
        answer = b""
        while chunk := await anyio.to_thread.run_sync(stream.recv, 1000):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 400 ")  # and then the end
    async with net.http("portico", base_url=API) as http:
        await Talk(http).open(session_id="s")
        async with net.http("portico", base_url=API) as other:
            with anyio.fail_after(HANG_SECONDS):
                async with Talk(other).follow("s") as following:
                    await anext(following)
        with anyio.fail_after(HANG_SECONDS):
            while (await net.state())[0]["open"] > 1:
                await anyio.sleep(0.02)


@both
async def test_a_stop_drains_and_leaves_nothing(tmp_path: Path, shape: Shape) -> None:
    async with standin(tmp_path, shape) as net, dark_server(tmp_path, net) as server:
        async with net.http("portico", base_url=API) as http:
            await Talk(http).open(session_id="s")
            processes = family(server)
            async with http.stream("POST", "/stream/s", json={"query": deltas(30, 0.05)}) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                server.process.send_signal(signal.SIGTERM)
                assert '"end_turn"' in "".join([line async for line in lines])  # the running turn got its time
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0
        assert gone_soon(processes)
        await net.bound("portico", 0)


@one_shared
async def test_interrupting_from_the_terminal_is_the_servers_business(dark: Dark) -> None:
    net, server = dark.net, dark.server
    child = listener(server)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        child.send_signal(number)
    async with net.http("portico") as http:
        assert (await http.get("/healthz")).status_code == 200
    assert live([child]) and os.getsid(child.pid) != os.getsid(server.process.pid)

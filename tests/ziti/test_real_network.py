"""A dark server on a real controller and router: what the stand-in is believed to show, seen where it matters."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import psutil
import pytest

from portico.ziti.overlay import DialFailed
from tests.support.agents import gone_soon
from tests.support.dark import deltas, family, follow, listener, listening, log_of, refused_start
from tests.support.limits import HANG_SECONDS
from tests.support.sight import count_descriptors
from tests.support.talk import Event, Talk, script, text
from tests.ziti.network import Network
from tests.ziti.overlay import Dark

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

OUTAGE_SECONDS = 180.0
STREAMS = 50
CONNECTIONS = 300


@pytest.fixture
def dark(network: Network, tmp_path: Path) -> Dark:
    made = Dark.on(network, tmp_path)
    made.person("alice")
    return made


async def seen_through(dark: Dark, found: list[Event], wanted: int, within: float) -> None:
    """Follow session `s` as a client does: again, from the last event, whenever the connection breaks."""
    with anyio.fail_after(within):
        while not found or found[-1]["seq"] < wanted:
            with suppress(DialFailed):
                async with dark.http() as http:
                    await follow(http, found, wanted)
            await anyio.sleep(0.2)


async def test_turns_over_sse_and_websocket(dark: Dark) -> None:
    async with dark.server() as server:
        assert server.url == "ziti:portico"
        async with dark.http() as http:
            await Talk(http).open(session_id="s")
            assert text(await Talk(http).turn("s", "over the air")) == "over the air"
        async with dark.websocket("/claude/ws/s") as client:
            await client.send("and back")
            assert text(await client.until("complete")) == "and back"
        assert "over portico by 'alice'" in log_of(server)


@pytest.mark.real_cli
async def test_a_turn_of_the_real_cli(dark: Dark) -> None:
    async with dark.server(PORTICO_DRIVER="claude-code") as server, dark.http() as http:
        await Talk(http).open(session_id="s")
        assert text(await Talk(http).turn("s", script({"say": "from the model"}))) == "from the model"
        assert list(listening(server)) == []


async def test_no_process_of_the_server_listens(dark: Dark) -> None:
    async with dark.server() as server, dark.http() as http:
        await Talk(http).open(session_id="s")
        await Talk(http).start("s", deltas(50, 0.02))
        await Talk(http).until("s", "delta")
        assert len(family(server)) >= 2
        assert list(listening(server)) == []


async def test_a_service_is_its_principal(network: Network, tmp_path: Path) -> None:
    dark = Dark.on(network, tmp_path, "for-alice", "for-bob", "ops")
    dark.person("alice", "for-alice")
    dark.person("bob", "for-bob")
    dark.person("olga", "ops")
    async with dark.server("for-alice=alice,for-bob=bob,ops=ops:admin"):
        async with (
            dark.http("alice", "for-alice") as alice,
            dark.http("bob", "for-bob") as bob,
            dark.http("olga", "ops") as ops,
        ):
            assert (await Talk(alice).open(session_id="a"))["owner"] == "alice"
            assert (await Talk(bob).open(session_id="b"))["owner"] == "bob"
            listed = {}
            for name, client in (("alice", alice), ("bob", bob), ("ops", ops)):
                listed[name] = {one["session_id"] for one in (await client.get("/sessions")).json()["sessions"]}
            assert listed == {"alice": {"a"}, "bob": {"b"}, "ops": {"a", "b"}}
            assert (await bob.post("/stream/a", json={"query": "x"})).status_code == 404
        async with dark.http("bob", "for-alice") as intruder:
            with pytest.raises(httpx.ConnectError, match="may not dial it"):
                await intruder.get("/sessions")


async def test_a_listener_killed_in_mid_stream_loses_nothing(dark: Dark) -> None:
    async with dark.server() as server, dark.http() as http:
        await Talk(http).open(session_id="s")
        await Talk(http).start("s", deltas(100, 0.02))
        seen: list[Event] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(seen_through, dark, seen, 105, 60)
            with anyio.fail_after(HANG_SECONDS):
                while len(seen) < 10:
                    await anyio.sleep(0.01)
            listener(server).kill()
            assert len(seen) < 100
        assert [event["seq"] for event in seen] == list(range(1, 106))
        assert sum(event["type"] == "delta" for event in seen) == 100
        assert "it was killed (SIGKILL)" in log_of(server)


# With its Dial policy it still sees the service: then the library says nothing, and only a probe finds out.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("probed", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_a_withdrawn_policy_lets_it_wait_until_it_is_given_back(
    network: Network, tmp_path: Path, probed: bool
) -> None:
    dark = Dark.on(network, tmp_path, probed=probed)
    dark.person("alice")
    async with dark.server() as server:
        await dark.reached(20)
        network.withdraw(dark.binding)
        with anyio.fail_after(OUTAGE_SECONDS if probed else 60):
            while ("this identity may not Bind it" if probed else "trying again in") not in log_of(server):
                await anyio.sleep(0.1)
        dark.allow_binding()
        await dark.reached(90)
        assert sum(process.cpu_times().user for process in family(server)) < 30  # it has not been spinning


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("away", "seconds"),
    [(("router",), 5), (("controller",), 5), (("controller", "router"), 5), (("controller", "router"), 40)],
)
async def test_it_comes_back_from_an_outage(dark: Dark, away: tuple[str, ...], seconds: float) -> None:
    daemons = [getattr(dark.network, name) for name in away]
    async with dark.server() as server, dark.http() as http:
        await Talk(http).open(session_id="s")
        await Talk(http).start("s", deltas(1000, (seconds + 15) / 1000))  # longer than the outage
        seen: list[Event] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(seen_through, dark, seen, 1005, OUTAGE_SECONDS + 60)
            with anyio.fail_after(HANG_SECONDS):
                while len(seen) < 10:
                    await anyio.sleep(0.01)
            for daemon in daemons:
                await anyio.to_thread.run_sync(daemon.stop)
            await anyio.sleep(seconds)
            for daemon in daemons:
                daemon.start()
            await anyio.to_thread.run_sync(dark.network.ready)
            await dark.reached(OUTAGE_SECONDS)
        assert [event["seq"] for event in seen] == list(range(1, 1006))
        assert server.process.returncode is None


async def test_many_streams_at_once(dark: Dark) -> None:
    async with dark.server() as server:
        async with dark.http() as http:
            await Talk(http).open(session_id="s")
            views: list[list[Event]] = [[] for _ in range(STREAMS)]
            async with anyio.create_task_group() as tasks:
                await Talk(http).start("s", deltas(50, 0.2))
                for seen in views:
                    tasks.start_soon(follow, http, seen, 55)
                with anyio.fail_after(HANG_SECONDS):
                    while not all(views):
                        await anyio.sleep(0.01)
                assert max(map(len, views)) < 55  # all are there at once
        assert [len(seen) for seen in views] == [55] * STREAMS
        assert listener(server).memory_info().rss < 200 * 2**20


async def test_many_connections_leave_nothing_behind(dark: Dark) -> None:
    async with dark.server() as server, dark.dialler() as dialler:

        async def request() -> None:
            with await dialler.dial() as stream:
                stream.setblocking(False)
                stream.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                answer = b""
                with anyio.fail_after(HANG_SECONDS):
                    while True:
                        await anyio.wait_readable(stream)
                        if not (chunk := stream.recv(10_000)):
                            break
                        answer += chunk
                assert answer.startswith(b"HTTP/1.1 200 ")

        for _ in range(10):
            await request()
        (child,) = [one for one in psutil.Process().children() if "portico.ziti.dialling_process" in one.cmdline()]
        processes = [listener(server), child]
        before = [process.num_fds() for process in processes]
        ours = psutil.Process(server.process.pid)
        ours_before = count_descriptors(ours)
        for _ in range(CONNECTIONS):
            await request()
        with anyio.fail_after(HANG_SECONDS):
            while any(process.num_fds() > old + 3 for process, old in zip(processes, before, strict=True)):
                await anyio.sleep(0.05)
            while count_descriptors(ours) > ours_before + 3:
                await anyio.sleep(0.05)


async def test_a_stop_takes_it_off_the_network_at_once(dark: Dark) -> None:
    async with dark.server() as server:
        await dark.terminators(1, 20)
        processes = family(server)
        server.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0
        assert gone_soon(processes)
        assert await dark.terminators(0, 10) < 3


async def refusal(dark: Dark, service: str = "portico") -> str:
    return await refused_start(dark.folder, {**dark.settings(f"{service}=alice"), "PORTICO_ZITI_REQUIRED": "true"})


async def test_without_permission_to_bind_it_does_not_start(dark: Dark) -> None:
    dark.network.withdraw(dark.binding)  # it may still dial it
    assert "the service portico: this identity may not Bind it" in await refusal(dark)


async def test_with_an_unknown_service_it_does_not_start(dark: Dark) -> None:
    assert "the service nowhere: the network has no such service" in await refusal(dark, "nowhere")


async def test_with_a_deleted_identity_it_does_not_start(dark: Dark) -> None:
    (made,) = dark.network.api("GET", "identities", params={"filter": 'name="server"'})
    dark.network.withdraw(f"identities/{made['id']}")
    assert "the controller does not know the identity (any more)" in await refusal(dark)


async def test_an_identity_that_may_see_nothing_is_said_to(dark: Dark) -> None:
    dark.network.clear()
    dark.identity = dark.network.identity("server")
    async with dark.server(bound=False) as server:  # perhaps a policy is on its way
        with anyio.fail_after(HANG_SECONDS):
            while "the identity may see no service" not in log_of(server) and "no such service" not in log_of(server):
                await anyio.sleep(0.1)
        assert server.process.returncode is None

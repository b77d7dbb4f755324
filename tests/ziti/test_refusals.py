"""Refusals, crashes and hangs of the Ziti library harm no server, and HTTP is served beside it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.agents import gone_soon
from tests.support.dark import (
    dark_server,
    dark_settings,
    deltas,
    enrolled,
    follow,
    listener,
    log_of,
    probes,
    refused_start,
)
from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk
from tests.support.ziti import Shape
from tests.support.ziti import network as standin

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

API = "http://localhost/claude"

both = pytest.mark.parametrize("shape", ["0.6", "1.x"])


async def failed(server: RunningServer, words: str) -> None:
    """Wait until ``/readyz`` names them, over HTTP."""
    async with server.http() as http:
        with anyio.fail_after(HANG_SECONDS):
            while words not in (await http.get(f"{server.url}/readyz")).json().get("failed", {}).get(
                "transport ziti", ""
            ):
                await anyio.sleep(0.05)
        assert (await http.get("/sessions")).status_code == 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "it is no enrolled identity"),
        ('{"ztAPI": "https://127.0.0.1:1", "id": {}}', "it has no certificate"),
        (enrolled(1, days=-3), "its certificate has expired"),
    ],
    ids=["no fields", "no id", "expired"],
)
async def test_a_bad_identity_ends_the_start_of_a_dark_server(tmp_path: Path, text: str, words: str) -> None:
    async with standin(tmp_path, "0.6") as net:
        settings = dark_settings(tmp_path, net)
        Path(settings["ZITI_IDENTITY_FILE"]).write_text(text)
        said = await refused_start(tmp_path, settings)
        assert words in said and "Traceback" not in said


async def test_http_is_served_beside_a_bad_identity(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net:
        settings = {**dark_settings(tmp_path, net), "NETWORKING_MODE": "http,ziti"}
        Path(settings["ZITI_IDENTITY_FILE"]).write_text("{}")
        async with running_server(tmp_path, **settings) as server:
            await failed(server, "it is no enrolled identity")


@pytest.mark.long
@both
async def test_a_controller_that_never_answers_hangs_the_listener_only(tmp_path: Path, shape: Shape) -> None:
    async with standin(tmp_path, shape) as net:
        net.outage(controller="silent")
        async with dark_server(tmp_path, net, NETWORKING_MODE="http,ziti") as server:
            await failed(server, "loading the identity has hung" if shape == "0.6" else "did not complete in time")
            children = psutil.Process(server.process.pid).children()
            await server.stop()
            assert gone_soon(children)


async def test_a_deleted_service_is_named_and_cuts_no_stream_of_another(tmp_path: Path) -> None:
    async with standin(tmp_path, "1.x") as net, dark_server(tmp_path, net, services="one=a,two=b") as server:
        child = listener(server)
        async with net.http("one", base_url=API) as http:
            await Talk(http).open(session_id="s")
            await Talk(http).start("s", deltas(100, 0.03))
            seen: list[Event] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, http, seen, 105)
                with anyio.fail_after(HANG_SECONDS):
                    while len(seen) < 5:
                        await anyio.sleep(0.01)
                net.delete("two")
            assert [event["seq"] for event in seen] == list(range(1, 106))
            words = "the service two: the network has no such service"
            with anyio.fail_after(HANG_SECONDS):
                while words not in (readiness := await http.get("http://localhost/readyz")).text:
                    await anyio.sleep(0.05)
            assert "service one" not in readiness.json()["failed"]["transport ziti"]
        assert listener(server) == child and "trying again in" not in log_of(server)


async def test_a_server_that_is_killed_leaves_no_listener_and_no_probe(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net:
        net.moods("server", connect="hang")
        async with dark_server(tmp_path, net, probed=True) as server:
            with anyio.fail_after(HANG_SECONDS):
                while not any(probe.num_threads() > 2 for probe in probes(server)):  # it dials
                    await anyio.sleep(0.01)
            children = [listener(server), *probes(server)]
            for child in children:
                child.send_signal(signal.SIGSTOP)  # so that it cannot see for itself that the server has gone
            server.process.kill()
            await server.process.wait()
            assert gone_soon(children)
        await net.bound("portico", 0)

"""The words for callers over Ziti, and for operators: who acts, by which way, who may come in, and who no longer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest

from portico.ziti.native.library import LibraryError
from tests.support.dark import dark_server, identity_file, standin_environment
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, environment
from tests.support.talk import Talk
from tests.support.ziti import network as standin

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

API = "http://localhost/claude"


async def test_a_page_behind_a_tunneler_starts_nothing_and_the_log_says_how_each_came(tmp_path: Path) -> None:
    """Over a tunneler a browser sends the name of the service, and nothing else that tells it from a program."""
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net) as server:
        async with net.http("portico", base_url="http://portico/claude") as http:
            await Talk(http).open(session_id="s")
            image = await http.get(
                "/stream/s?query=x", headers={"Referer": "http://evil.example/", "Accept": "image/*"}
            )
            assert (image.status_code, image.json()["code"]) == (403, "origin_unproven")
            asked = await http.get("/stream/s?query=x", headers={"X-Portico": "1"})
            assert asked.status_code == 200
            assert (await Talk(http).session("s"))["turns"] == 1
        async with net.websocket("portico") as client:
            await client.send("and by WebSocket")
            await client.until("complete")
        await server.stop()
        lines = [json.loads(line) for line in (server.data_dir / "audit.jsonl").read_text().splitlines()]
        ways = {(line["action"], line["outcome"]): line["from"] for line in lines if "from" in line}
        assert {way["transport"] for way in ways.values()} == {"ziti"}
        assert ways["request", "origin_unproven"]["service"] == "portico"
        assert ("turn.query", "ok") in ways


async def test_a_server_that_nobody_can_dial_is_not_ready(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net:
        net.moods("portico", bind=-16)  # no router
        async with dark_server(tmp_path, net, NETWORKING_MODE="http,ziti") as server, server.http() as http:
            answer = await http.get(f"{server.url}/readyz")
            assert answer.status_code == 503
            (reason,) = answer.json()["reasons"]
            assert reason.startswith("transport ziti: not bound: ") and "router" in reason
            assert "the service portico: " in answer.json()["failed"]["transport ziti"]
            net.moods("portico", bind=None)
            with anyio.fail_after(HANG_SECONDS):
                while (await http.get(f"{server.url}/readyz")).status_code != 200:
                    await anyio.sleep(0.1)


@pytest.mark.parametrize("may_dial", [True, False], ids=["itself", "others alone"])
async def test_the_demo_serves_on_a_ziti_network(tmp_path: Path, may_dial: bool) -> None:
    async with standin(tmp_path, "0.6") as net:
        net.allow("server", bind=["portico"], dial=["portico"] if may_dial else [])
        file = identity_file(net)
        home = tmp_path / "home"
        home.mkdir()
        options = ["--networking-mode", "ziti", "--ziti-identity-file", str(file), "--ziti-service-name"]
        env = environment(home, **standin_environment(tmp_path, net))
        async with await anyio.open_process(
            [*PORTICO, "demo", *options, "portico=alice", "--driver", "echo"], env=env, cwd=home
        ) as process:
            assert process.stdout is not None
            said = b""
            with anyio.fail_after(HANG_SECONDS):
                while b"Ctrl-C stops" not in said:
                    said += await process.stdout.receive()
            process.terminate()
            assert await process.wait() == 0
        assert b"ready on the Ziti service portico" in said
        assert f"--ziti-identity {file} --ziti-service portico demo".encode() in said
        assert (b"may not dial it" in said) is not may_dial
        assert (b"curl" in said) is False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "the mode ziti needs it"),
        (["--ziti-identity-file", "nobody.json", "--ziti-service-name", "portico=alice"], "there is no such file"),
    ],
)
async def test_the_demo_says_at_once_what_it_needs(tmp_path: Path, options: list[str], says: str) -> None:
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(
            [*PORTICO, "demo", "--networking-mode", "ziti", *options],
            env=environment(tmp_path),
            cwd=tmp_path,
            check=False,
        )
    assert done.returncode == 2 and says in done.stderr.decode() and b"Traceback" not in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("invalid state", "neither the controller nor an edge router can be reached"),
        ("crypto failure", "could not be encrypted"),
        ("Failed posture check", "posture checks refuse this machine"),
        ("something that nobody knows", "`something that nobody knows`: see whether the network is up"),
    ],
)
def test_whatever_the_library_says_a_client_is_told_what_to_do(said: str, told: str) -> None:
    words = LibraryError(-21, said).words
    assert told in words and words != said


async def test_a_client_whose_network_is_away_is_told_so(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net) as server:
        net.allow("alice", dial=["portico"])
        net.moods("portico", connect=-21)
        options = ["--ziti-identity", str(identity_file(net, "alice")), "--ziti-service", "portico"]
        env = environment(server.home, **standin_environment(tmp_path, net))
        with anyio.fail_after(HANG_SECONDS):
            done = await anyio.run_process([*PORTICO, "ask", "hi", *options], env=env, cwd=tmp_path, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert "try again once the network is back" in line and "invalid state" not in line

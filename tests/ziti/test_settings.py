"""Each setting of the mode `ziti`, changed, changes what an outsider observes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dark import dark_server, dark_settings, log_of, refused_start
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, environment
from tests.support.talk import Talk
from tests.support.ziti import network as standin

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

API = "http://localhost/claude"


async def test_ziti_identity_file_is_who_binds(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net):
        assert [one["identity"] for one in await net.state()] == ["server"]


async def test_ziti_service_name_is_what_is_bound(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net, services="one=a,two=b:admin,three"):
        assert [one["service"] for one in await net.state()] == ["one", "two", "three"]


@pytest.mark.parametrize("trust", ["true", "false"])
async def test_ziti_trust_caller_takes_the_callers_word(tmp_path: Path, trust: str) -> None:
    options = ("--ziti-trust-caller", trust)
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net, *options, services="portico") as server:
        net.allow("carol", dial=["portico"])
        async with net.http("portico", base_url=API, identity="carol") as carol:
            if trust == "true":
                assert (await Talk(carol).open(session_id="s"))["owner"] == "carol"
                assert "ziti_trust_caller: anybody who may dial can make up a name" in log_of(server)
            else:
                assert (await carol.get("/sessions")).status_code == 401
                assert "ziti_trust_caller" not in log_of(server)


@pytest.mark.parametrize("required", ["true", "false"])
async def test_ziti_required_fails_a_start_without_a_service(tmp_path: Path, required: str) -> None:
    words = "the service two: the network has no such service"
    async with standin(tmp_path, "0.6") as net:
        net.moods("two", bind=-17)
        if required == "true":
            settings = {**dark_settings(tmp_path, net, "one=alice,two=bob"), "PORTICO_ZITI_REQUIRED": "true"}
            assert f"the transport ziti can't start: {words}" in await refused_start(tmp_path, settings)
            return
        async with dark_server(tmp_path, net, services="one=alice,two=bob") as server, net.http("one") as http:
            readiness = await http.get("/readyz")
            assert words in readiness.json()["failed"]["transport ziti"] and words in log_of(server)
            assert "service one" not in readiness.text


def test_ziti_settings_are_needed_in_mode_ziti(tmp_path: Path) -> None:
    env = environment(tmp_path, NETWORKING_MODE="http,ziti", PORTICO_DATA_DIR=str(tmp_path / "data"))
    done = subprocess.run(
        [*PORTICO, "serve"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 2
    for name in ("ZITI_IDENTITY_FILE", "ZITI_SERVICE_NAME"):
        assert name in done.stderr

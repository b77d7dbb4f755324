"""The real `openziti` without a network, and with nothing that could harm it.

Identities that crash it, and controllers that let it hang, are for the stand-in: `test_refusals.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import anyio
import pytest

from tests.support.dark import enrolled, log_of, refused_start
from tests.support.limits import HANG_SECONDS
from tests.support.server import running_server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(importlib.util.find_spec("openziti") is None, reason="openziti is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux"),
]


def identity(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "identity.json"
    path.touch(mode)
    path.write_text(text)
    path.chmod(mode)
    return path


def settings(path: Path) -> dict[str, str]:
    return {"ZITI_IDENTITY_FILE": str(path), "ZITI_SERVICE_NAME": "portico", "PORTICO_DRIVER": "echo"}


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0o600, "there is no such file"),
        ("", 0o600, "it is no enrolled identity"),
        ("garbage", 0o600, "it is no enrolled identity"),
        (enrolled(1), 0o644, "chmod 600"),
    ],
    ids=["missing", "empty", "garbage", "readable"],
)
async def test_a_bad_identity_ends_the_start_in_words(tmp_path: Path, text: str | None, mode: int, words: str) -> None:
    path = tmp_path / "identity.json" if text is None else identity(tmp_path, text, mode)
    said = await refused_start(tmp_path, {"NETWORKING_MODE": "ziti", **settings(path)})
    assert words in said and str(path) in said and "Traceback" not in said


async def test_a_controller_that_refuses_is_tried_again_and_the_server_lives(tmp_path: Path) -> None:
    path = identity(tmp_path, enrolled(1))
    async with running_server(tmp_path, NETWORKING_MODE="http,ziti", **settings(path)) as server:
        async with server.http() as http:
            failed = (await http.get(f"{server.url}/readyz")).json()["failed"]
        assert "the controller can't be reached" in failed["transport ziti"]
        with anyio.fail_after(HANG_SECONDS):
            while log_of(server).count("the controller can't be reached; trying again in") < 3:
                await anyio.sleep(0.1)
        assert "Traceback" not in log_of(server)

"""The real `openziti` 0.6.0, which crashes and hangs, without a network."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.agents import gone_soon
from tests.support.dark import enrolled, log_of
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, environment, running_server

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
        ("{}", 0o600, "it is no enrolled identity"),
        ('{"ztAPI": "https://127.0.0.1:1", "id": {}}', 0o600, "it has no certificate"),
        (enrolled(1, days=-3), 0o600, "its certificate has expired"),
        (enrolled(1), 0o644, "chmod 600"),
    ],
    ids=["missing", "empty", "garbage", "no fields", "no id", "expired", "readable"],
)
def test_a_bad_identity_ends_the_start_in_words(tmp_path: Path, text: str | None, mode: int, words: str) -> None:
    path = tmp_path / "identity.json" if text is None else identity(tmp_path, text, mode)
    env = environment(tmp_path, NETWORKING_MODE="ziti", PORTICO_DATA_DIR=str(tmp_path / "data"), **settings(path))
    done = subprocess.run(
        [*PORTICO, "serve"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 1
    assert words in done.stderr and str(path) in done.stderr and "Traceback" not in done.stderr


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


@pytest.fixture
def silent_controller() -> Iterator[int]:
    """The port of one that accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    held.append(listener.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for one in held:
            one.close()


@pytest.mark.long
async def test_a_controller_that_never_answers_hangs_the_listener_only(tmp_path: Path, silent_controller: int) -> None:
    path = identity(tmp_path, enrolled(silent_controller))
    async with running_server(tmp_path, NETWORKING_MODE="http,ziti", **settings(path)) as server:
        async with server.http() as http:
            words = ""
            with anyio.fail_after(HANG_SECONDS):
                while "hung" not in words:
                    words = (await http.get(f"{server.url}/readyz")).json()["failed"]["transport ziti"]
                    await anyio.sleep(0.1)
            assert "loading the identity has hung" in words
        children = psutil.Process(server.process.pid).children()
        await server.stop()
        assert gone_soon(children)

"""A user without an entry in the passwd file and without HOME, as containers and service managers make them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, ROOT, server_of
from tests.support.talk import talk, text
from tests.support.users import NAMELESS, needs_a_nameless_user

NAMED = "PORTICO_DATA_DIR"

pytestmark = [needs_a_nameless_user]


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [*NAMELESS, *PORTICO, *arguments]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=HANG_SECONDS)


@pytest.mark.parametrize("command", ["config", "doctor", "serve --port=many", "openapi", "token", "sessions", "ask hi"])
def test_with_a_data_folder_no_command_stumbles(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, *command.split(), PORTICO_DATA_DIR=str(tmp_path / "data"), PORTICO_DRIVER="echo")
    assert "Traceback" not in done.stderr and NAMED not in done.stderr
    if command in ("config", "doctor", "openapi"):
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["config", "doctor", "serve", "token", "sessions", "top --once", "ask hi", "chat"])
def test_without_one_the_word_is_clear(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, *command.split())
    assert done.returncode == 2 and done.stdout == ""
    why = "this user has no home folder for the server's data; accepted: a folder's path"
    assert done.stderr == f"portico: {NAMED}: {why}\n"


@pytest.mark.parametrize("command", ["config", "doctor", "serve", "token", "sessions", "--help"])
def test_in_a_folder_that_is_gone_the_word_is_clear(tmp_path: Path, command: str) -> None:
    (tmp_path / "gone").mkdir()
    leave = ["sh", "-c", 'rmdir "$PWD" && exec "$0" "$@"', *PORTICO, command]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(leave, env=env, cwd=tmp_path / "gone", capture_output=True, text=True, timeout=HANG_SECONDS)
    if command == "--help":
        assert done.returncode == 0, done.stderr
    else:
        said = "portico: the folder in which this command was started is gone: start it in another one\n"
        assert (done.returncode, done.stderr) == (2, said)


def test_a_group_that_the_user_is_not_in_is_a_wrong_setting(tmp_path: Path) -> None:
    options = ("--data-dir", str(tmp_path / "data"), "--uds", str(tmp_path / "socket"), "--uds-group", "1")
    done = run(tmp_path, "serve", *options)
    assert done.returncode == 2 and "--uds-group=1: this process is not in the group; accepted: " in done.stderr


def test_who_needs_no_data_folder_is_not_asked_for_one(tmp_path: Path) -> None:
    done = run(tmp_path, "ask", "--server", "http://127.0.0.1:9", "--token", "x", "hi")
    assert done.returncode == 1 and "can't connect" in done.stderr
    assert run(tmp_path, "token", "new", "carol").returncode == run(tmp_path, "openapi").returncode == 0


@pytest.mark.anyio
@pytest.mark.real_cli
async def test_a_turn_runs(tmp_path: Path) -> None:
    prefix = [*NAMELESS, "env", "-u", "HOME"]
    async with server_of(prefix, (), tmp_path) as server, talk(server) as client:
        await client.open(session_id="s")
        assert text(await client.turn("s", "hello"))

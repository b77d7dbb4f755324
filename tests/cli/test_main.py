"""The end of every command: its exit status, and its message instead of a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from portico import __version__
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, environment


def portico(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = environment(folder, **variables)
    return subprocess.run(
        [*PORTICO, *arguments], env=env, cwd=folder, capture_output=True, text=True, timeout=HANG_SECONDS
    )


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """``$P`` in ``command`` is the program."""
    env = environment(folder, P=" ".join(PORTICO))
    return subprocess.run(
        ["bash", "-c", command], env=env, cwd=folder, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )


def test_wrong_usage(tmp_path: Path) -> None:
    for arguments in (["nonsense"], ["ask"], ["sessions", "--json", "close", "x"], ["chat", "a b"]):
        done = portico(tmp_path, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("Usage: ") and "Error: " in done.stderr and "Traceback" not in done.stderr
    assert portico(tmp_path, "--help").returncode == 0


@pytest.mark.parametrize("command", ["$P config", "$P --help"])
def test_output_that_nobody_takes(tmp_path: Path, command: str) -> None:
    full = shell(tmp_path, f"{command} >/dev/full")
    assert (full.returncode, full.stderr) == (1, "portico: can't write: No space left on device\n")
    pipe = shell(tmp_path, f"{command} | head -c0; exit ${{PIPESTATUS[0]}}")
    assert (pipe.returncode in (0, 1), pipe.stderr) == (True, "")
    closed = shell(tmp_path, f"{command} >&-")
    assert closed.stderr == ""


@pytest.mark.parametrize("delay", [0.06, 0.12, 0.2, 0.3, 0.5])
def test_ctrl_c_during_the_start(tmp_path: Path, delay: float) -> None:
    # Sent when it has begun to run code of its own; the interpreter's own start is not ours.
    command = [
        sys.executable,
        "-c",
        "from portico.cli.main import main; print(flush=True); main()",
        "serve",
        "--port",
        "0",
    ]
    env = environment(tmp_path, PORTICO_DATA_DIR=str(tmp_path / "data"), ANTHROPIC_API_KEY="x")
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=HANG_SECONDS)
    assert "Traceback" not in stderr and "Aborted" not in stderr and "KeyboardInterrupt" not in stderr
    assert process.returncode in (130, 0)  # 0: it was serving already


@pytest.mark.anyio
@pytest.mark.parametrize("presses", [1, 2])
async def test_ctrl_c_while_nobody_answers(tmp_path: Path, presses: int) -> None:
    connected = anyio.Event()

    async def keep_waiting(stream: SocketStream) -> None:
        async with stream:
            connected.set()
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, keep_waiting)
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610
        for command in (["ask", "hello"], ["sessions"]):
            argv = [*PORTICO, *command, "--server", url]
            async with await anyio.open_process(argv, env=environment(tmp_path), cwd=tmp_path) as process:
                with anyio.fail_after(HANG_SECONDS):
                    await connected.wait()
                    for _ in range(presses):
                        process.send_signal(signal.SIGINT)
                    assert process.stderr is not None
                    said = b"".join([data async for data in process.stderr])
                    assert (await process.wait(), said) == (130, b"")
            connected = anyio.Event()
        tasks.cancel_scope.cancel()


@pytest.mark.long
def test_clients_care_for_the_data_folder_alone(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORTICO_PORT=nonsense\nnot a line\nPORTICO_DATA_DIR=here\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "token").write_text("a-token-of-the-test\n")
    token = portico(tmp_path, "token", PORTICO_MAX_SESSIONS="many")
    assert (token.returncode, token.stdout) == (0, "a-token-of-the-test\n")
    for arguments in (["ask", "hello"], ["chat"], ["sessions"]):
        done = portico(tmp_path, *arguments, PORTICO_MAX_SESSIONS="many")
        assert done.returncode == 1
        assert done.stderr.startswith("portico: no server is running here") and done.stderr.count("\n") == 1
    assert portico(tmp_path, "serve").returncode == 2


@pytest.mark.parametrize(
    ("option", "status", "says"),
    [
        (["--store", "nope"], 2, "--store=nope: there is no store"),
        (["--claude-cli-path", "/nonexistent"], 1, "There is no file /nonexistent"),
    ],
)
def test_a_demo_that_cannot_start_says_why(tmp_path: Path, option: list[str], status: int, says: str) -> None:
    done = portico(tmp_path, "demo", *option)
    assert done.returncode == status
    assert done.stderr.splitlines()[-1].startswith("portico: ") and says in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


PLUGIN = """
import click
from portico import hookimpl
from pydantic import BaseModel, Field

class Settings(BaseModel):
    grains: int = Field(3, ge=0, description="How much a pigeon gets.")

@click.command()
def coo():
    '''Say what pigeons say.'''
    click.echo("coo")

@hookimpl
def portico_settings():
    return {"pigeon": Settings}

@hookimpl
def portico_commands():
    return {"coo": coo}
"""


def test_plugins_are_listed_with_what_they_register_and_what_failed(tmp_path: Path) -> None:
    (tmp_path / "pigeon.py").write_text(PLUGIN)
    (tmp_path / "broken.py").write_text("raise RuntimeError('at once')")
    done = portico(tmp_path, "plugins", PORTICO_PLUGINS="pigeon,broken", PORTICO_DISABLED_PLUGINS="echo")
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["http"].split() == ["http", "portico-server", __version__, "transport", "http,", "websocket"]
    assert lines["pigeon"].endswith("command coo; settings pigeon") and "setting plugins" in lines["pigeon"]
    assert lines["broken"].endswith("FAILED: RuntimeError: at once")
    assert lines["echo"].endswith("disabled")
    done = portico(tmp_path, "plugins", "--plugins", "pigeon", "--json")
    found = {plugin["name"]: plugin for plugin in map(json.loads, done.stdout.splitlines())}
    assert found["pigeon"]["offers"] == {"command": ["coo"], "settings": ["pigeon"]}
    assert found["sqlite-store"]["version"] == __version__


@pytest.mark.long
def test_a_plugins_settings_and_commands_are_the_programs_own(tmp_path: Path) -> None:
    (tmp_path / "pigeon.py").write_text(PLUGIN)
    given = {"PORTICO_PLUGINS": "pigeon"}
    assert portico(tmp_path, "coo", **given).stdout == "coo\n"
    assert "Say what pigeons say." in portico(tmp_path, "--help", **given).stdout
    assert "How much a pigeon gets." in portico(tmp_path, "serve", "--help", **given).stdout
    (line,) = [
        line
        for line in portico(tmp_path, "config", "--plugins", "pigeon", "--pigeon-grains=5").stdout.splitlines()
        if line.startswith("pigeon_grains")
    ]
    assert line.split() == ["pigeon_grains", "5", "option", "--pigeon-grains"]
    wrong = portico(tmp_path, "serve", PORTICO_PIGEON_GRAINS="-1", **given)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("portico: PORTICO_PIGEON_GRAINS=-1: Input should be greater than or equal to 0")
    unknown = portico(tmp_path, "serve", PORTICO_PIGEON_GRAINS="1")
    assert unknown.returncode == 2 and "PORTICO_PIGEON_GRAINS: unknown setting" in unknown.stderr


ODD = """
import anyio
from portico import hookimpl
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.memory_store.store import MemoryStore

class Hanging(EchoDriver):
    async def open(self):
        await anyio.sleep_forever()

class HangingStore(MemoryStore):
    async def open(self):
        await anyio.sleep_forever()

class Unreachable:
    name = "unreachable"
    async def serve(self, engine, *, task_status):
        await anyio.sleep_forever()

async def later(context):
    return EchoDriver()

@hookimpl
def portico_drivers():
    return {"hanging": lambda context: Hanging(), "nothing": lambda context: None, "later": later}

@hookimpl
def portico_stores():
    return {"hanging": lambda context: HangingStore(), "nothing": lambda context: object()}

@hookimpl
def portico_transports():
    return {"unreachable": lambda context: Unreachable()}
"""


@pytest.mark.parametrize("option", ["--driver=hanging", "--store=hanging", "--networking-mode=http,unreachable"])
def test_a_start_that_hangs_ends_at_the_first_signal(tmp_path: Path, option: str) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    env = environment(tmp_path, PORTICO_DATA_DIR=str(tmp_path / "data"), PORTICO_PLUGINS="odd", PORTICO_PORT="0")
    arguments = [*PORTICO, "serve", option]
    with subprocess.Popen(arguments, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            ends = time.monotonic() + HANG_SECONDS
            while not (tmp_path / "data" / "lock").exists() and time.monotonic() < ends:
                time.sleep(0.02)
            time.sleep(0.5)  # it is in the middle of it
            process.send_signal(signal.SIGTERM)
            assert process.wait(HANG_SECONDS) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            "--driver=nothing",
            "its factory returned NoneType, without name, capabilities",
        ),
        ("--driver=later", "the driver later can't be made: its factory is async"),
        ("--store=nothing", "the store nothing can't be made: its factory returned object, without open"),
    ],
)
def test_what_a_factory_makes_is_looked_at(tmp_path: Path, option: str, says: str) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    done = portico(tmp_path, "serve", option, PORTICO_PLUGINS="odd", PORTICO_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 1
    assert says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_command_that_is_none_fails_its_plugin_only(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from portico import hookimpl\n@hookimpl\ndef portico_commands(): return {'odd': lambda: 1}\n"
    )
    done = portico(tmp_path, "--help", PORTICO_PLUGINS="odd")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    listed = portico(tmp_path, "plugins", PORTICO_PLUGINS="odd").stdout
    assert "FAILED: portico_commands: 'odd' is not a click command but function" in listed

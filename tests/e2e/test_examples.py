"""The examples, as somebody has them who knows nothing of this folder: installed with pip, and served all at once."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from portico.plugins.demo.model_server import serve_model
from tests.support.agents import real_cli
from tests.support.limits import HANG_SECONDS
from tests.support.server import ROOT
from tests.support.sse import events as sse_events
from tests.support.talk import script

EXAMPLES = ROOT / "examples"
MODULES = ("portico-jsonlines", "portico-openai", "portico-webhook")
"""Examples that are one module each, without a folder for it."""

NAMES = (*MODULES, "portico-claude-agent-sdk")
PIP_SECONDS = 600

ASK = """
import json, openai, sys
url, token, session, query = sys.argv[1:]
with openai.OpenAI(base_url=url + "/v1", api_key=token, max_retries=0) as client:
    chunks = client.chat.completions.create(
        model="portico", messages=[{"role": "user", "content": query}], stream=True,
        extra_headers={"X-Portico-Session": session},
    )
    print(json.dumps([chunk.choices[0].delta.content for chunk in chunks]))
"""


@pytest.mark.parametrize("name", MODULES)
def test_an_example_is_one_short_module(name: str) -> None:
    (module,) = (EXAMPLES / name).glob("*.py")
    assert module.name == f"{name.replace('-', '_')}.py"
    assert len(module.read_text().splitlines()) < 210


@pytest.mark.parametrize("name", [pytest.param("portico-openai", marks=pytest.mark.long), "portico-webhook"])
def test_an_example_passes_its_own_tests(tmp_path: Path, name: str) -> None:
    path = os.pathsep.join(map(str, (ROOT, EXAMPLES / name)))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / name)]
    done = subprocess.run(
        argv, env=env, cwd=EXAMPLES / name, capture_output=True, text=True, timeout=2 * HANG_SECONDS, check=False
    )
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout + done.stderr


class Installed:
    """A virtual environment outside the repository, with Portico, the examples, and copies of their tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
        # Where pip finds packages is the machine's matter.
        self._pip = self.env | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}

    def bin(self, name: str) -> str:
        return str(self.folder / "venv" / "bin" / name)

    def run(self, *argv: str, cwd: Path | None = None, seconds: float = 120) -> str:
        env = self._pip if "pip" in argv else self.env
        done = subprocess.run(
            argv, env=env, cwd=cwd or self.folder, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self) -> None:
        self.run(sys.executable, "-m", "venv", "venv")
        pip = (self.bin("python"), "-m", "pip")
        sources = [ROOT, *(EXAMPLES / name for name in NAMES)]
        self.run(*pip, "wheel", "-q", "--no-deps", "-w", "wheels", *map(str, sources), seconds=PIP_SECONDS)
        wheels = {path.name.split("-")[0]: path for path in (self.folder / "wheels").glob("*.whl")}
        portico = f"portico-server[testing] @ {wheels.pop('portico_server').as_uri()}"
        constraints = ("-c", str(ROOT / "constraints.txt"))
        others = ("openai", "standardwebhooks", "mypy", "pytest-timeout")
        self.run(*pip, "install", "-q", *constraints, portico, *map(str, wheels.values()), *others, seconds=PIP_SECONDS)
        for name in NAMES:
            shutil.copytree(EXAMPLES / name / "tests", self.folder / name / "tests")
            shutil.copy(EXAMPLES / name / "pyproject.toml", self.folder / name)


class Receiver:
    """Takes webhooks, and keeps their events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        events = self.events

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                events.extend(body["data"]["events"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def __enter__(self) -> Receiver:
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    async def until(self, session_id: str, count: int) -> list[dict[str, Any]]:
        """The events of a session, once there are so many."""
        with anyio.fail_after(HANG_SECONDS):
            while len(found := [event for event in self.events if event["session_id"] == session_id]) < count:
                await anyio.sleep(0.02)
        return found


@asynccontextmanager
async def serving(installed: Installed, **settings: str) -> AsyncIterator[Mapping[str, str]]:
    """The addresses of a server, by their schemes."""
    data = installed.folder / "data"
    env = installed.env | {f"PORTICO_{name}": value for name, value in settings.items()}
    log = installed.folder / "log"
    with log.open("wb") as errors:
        argv = [installed.bin("portico"), "serve", "--data-dir", str(data), "--port", "0"]
        process = await anyio.open_process(argv, env=env, cwd=installed.folder, stderr=errors)
    async with process:
        try:
            found = await _addresses(process)
            assert set(found) == {"http", "jsonlines"}, f"{found}\n{log.read_text()}"
            yield found
            process.terminate()
            with anyio.fail_after(HANG_SECONDS):
                assert await process.wait() == 0, log.read_text()
        finally:
            if process.returncode is None:
                process.kill()


async def _addresses(process: Process) -> Mapping[str, str]:
    assert process.stdout is not None
    said = ""
    with anyio.move_on_after(HANG_SECONDS):
        async for data in process.stdout:
            said += data.decode()
            if said.count("Portico is ready on ") == 2 and said.endswith("\n"):
                break
    return {scheme: f"{scheme}://{rest}" for scheme, rest in re.findall(r"ready on (\w+)://(\S+)\n", said)}


def is_last(event: Mapping[str, Any]) -> bool:
    return bool(event["type"] == "session" and event["state"] == "idle" and event.get("reason") != "created")


async def watch_over_sse(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    seen = []
    async with client.stream("GET", f"/sessions/{session_id}/events") as answer:
        async for event in sse_events(answer):
            seen.append(event)
            if is_last(event):
                break
    return seen


async def watch_over_lines(address: str, token: str, session_id: str) -> list[dict[str, Any]]:
    port = int(address.rpartition(":")[2])
    seen: list[dict[str, Any]] = []
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        lines = BufferedByteReceiveStream(stream)
        first = {"type": "open", "token": token, "session_id": session_id, "after": 0}
        await stream.send(json.dumps(first).encode() + b"\n")
        assert json.loads(await lines.receive_until(b"\n", 2**20))["type"] == "ack"
        while not (seen and is_last(seen[-1])):
            seen.append(json.loads(await lines.receive_until(b"\n", 2**20)))
    return seen


@pytest.mark.long
@pytest.mark.anyio
@pytest.mark.real_cli
@pytest.mark.timeout(1200)
async def test_all_examples_at_once_from_a_clean_environment(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    await anyio.to_thread.run_sync(installed.install)
    listed = installed.run(installed.bin("portico"), "plugins", "--json").splitlines()
    found = {plugin["source"]: plugin for plugin in map(json.loads, listed)}
    for name in NAMES:
        assert found[name]["failure"] is None and found[name]["offers"] and found[name]["version"] == "0.1.0"
    python = installed.bin("python")
    for name in NAMES:
        source = EXAMPLES / name / name.replace("-", "_")
        if name in MODULES:
            code = shutil.copy(source.with_suffix(".py"), tmp_path / name / "strict.py")
        else:
            code = shutil.copytree(source, tmp_path / name / "strict" / source.name)
        checked = await anyio.to_thread.run_sync(installed.run, python, "-m", "mypy", "--strict", str(code))
        assert "Success" in checked
        argv = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long")
        tests = partial(installed.run, *argv, seconds=300)
        ran = await anyio.to_thread.run_sync(partial(tests, cwd=tmp_path / name))
        assert " passed" in ran and "skipped" not in ran, ran
    await watch_one_session_from_everywhere(installed)


async def watch_one_session_from_everywhere(installed: Installed) -> None:
    key = base64.b64encode(os.urandom(32)).decode()
    settings = {
        "NETWORKING_MODE": "http,jsonlines",
        "DRIVER": "echo,claude-code",
        "JSONLINES_LISTEN": "127.0.0.1:0",
        "WEBHOOK_SECRET": f"whsec_{key}",
        "WEBHOOK_TYPES": "session,query,delta,thinking,message,notice,complete",
        "CLAUDE_CLI_PATH": str(real_cli()),
        "ANTHROPIC_API_KEY": "not-a-key",
    }
    queries = {"echo": "one two three", "claude-code": script({"say": "one two three"})}
    async with serve_model() as model:
        with Receiver() as receiver:
            settings |= {"WEBHOOK_URL": receiver.url, "ANTHROPIC_BASE_URL": model.url}
            async with serving(installed, **settings) as addresses:
                for driver, query in queries.items():
                    await watch(installed, addresses, receiver, driver, query)


async def watch(
    installed: Installed, addresses: Mapping[str, str], receiver: Receiver, driver: str, query: str
) -> None:
    token = (installed.folder / "data" / "token").read_text().strip()
    url, session_id = addresses["http"], f"watched-{driver}"
    seen: dict[str, list[dict[str, Any]]] = {}
    said: list[str | None] = []
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        base_url=f"{url}/claude", headers=headers, timeout=HANG_SECONDS, trust_env=False
    ) as client:
        made = await client.post("/sessions", json={"session_id": session_id, "driver": driver})
        assert made.status_code == 201, made.text

        async def over_sse() -> None:
            seen["sse"] = await watch_over_sse(client, session_id)

        async def over_lines() -> None:
            seen["lines"] = await watch_over_lines(addresses["jsonlines"], token, session_id)

        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(over_sse)
                tasks.start_soon(over_lines)
                argv = [installed.bin("python"), "-c", ASK, url, token, session_id, query]
                done = await anyio.run_process(argv, env=installed.env, stderr=None)
                said = json.loads(done.stdout)
        kept = (await client.get(f"/sessions/{session_id}/events?live=false")).json()["events"]
    assert kept and seen["sse"] == seen["lines"] == kept
    assert await receiver.until(session_id, len(kept)) == kept
    deltas = [event["content"] for event in kept if event["type"] == "delta"]
    assert "".join(filter(None, said)) == "".join(deltas) == "one two three"

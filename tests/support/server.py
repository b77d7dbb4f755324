"""A server as users start it: `portico serve` in a process of its own, with the real CLI on the scripted model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
from anyio.abc import Process

from portico.plugins.demo.model import ScriptedModel
from portico.plugins.demo.model_server import serve_model
from tests.support.agents import gone_soon, real_cli
from tests.support.limits import HANG_SECONDS

PORTICO = [sys.executable, "-m", "portico"]
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class RunningServer:
    """`data_dir` holds its token and says where it is; `home` is an empty home for those who talk to it."""

    url: str
    token: str
    data_dir: Path
    home: Path
    model: ScriptedModel
    process: Process

    @property
    def api(self) -> str:
        return f"{self.url}/claude"

    @property
    def client_env(self) -> dict[str, str]:
        """Return the variables with which a client on this machine finds the server."""
        return environment(self.home, PORTICO_DATA_DIR=str(self.data_dir))

    def http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(base_url=self.api, headers=headers, timeout=HANG_SECONDS, trust_env=False)

    def agents(self) -> list[psutil.Process]:
        """The agents' programs themselves, without what holds them together."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words and Path(words[0]).name == "claude" and any("stream-json" in word for word in words):
                    found.append(process)
        return found

    def count_agents(self) -> int:
        return len(self.agents())

    def kill_agents(self) -> None:
        """SIGKILL to every agent, as the kernel's out-of-memory killer would do it: to the program itself."""
        for process in self.agents():
            process.kill()

    async def stop(self) -> None:
        """SIGTERM; it must end by itself, and leave no process behind."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(HANG_SECONDS):
            assert await self.process.wait() == 0
        assert gone_soon(children), children
        assert not (self.data_dir / "server.json").exists()


def environment(home: Path, **variables: str) -> dict[str, str]:
    """A clean environment: nothing of the test's own settings reaches the process."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", **variables}


@asynccontextmanager
async def running_server(folder: Path, *arguments: str, **variables: str) -> AsyncIterator[RunningServer]:
    """A server on a free port, with its data in ``folder``; stopped, and looked at for what it leaves, at the end."""
    async with server_of((), (), folder, *arguments, **variables) as server:
        yield server


@asynccontextmanager
async def server_of(
    prefix: Sequence[str], descriptors: Sequence[int], folder: Path, *arguments: str, **variables: str
) -> AsyncIterator[RunningServer]:
    """The same, started by ``prefix``, a command that starts the command behind it, which inherits ``descriptors``."""
    cli = real_cli()  # a skip inside of the task group below would be an error
    home, log = folder / "home", folder / "server.log"
    data_dir = Path(variables.get("PORTICO_DATA_DIR", folder / "data"))
    home.mkdir()
    async with serve_model() as model:
        settings = {
            "PORTICO_PORT": "0",
            "PORTICO_POOL_SIZE": "0",  # each one started ahead costs a second of a processor; test_pool.py has some
            "PORTICO_DATA_DIR": str(data_dir),
            "PORTICO_CLAUDE_CLI_PATH": str(cli),
            "ANTHROPIC_API_KEY": "not-a-key",
            "ANTHROPIC_BASE_URL": model.url,
        }
        env = environment(home, **(settings | variables))
        with log.open("wb") as output:
            process = await anyio.open_process(
                [*prefix, *PORTICO, "serve", *arguments],
                env=env,
                cwd=home,
                stdin=None,
                stdout=output,
                stderr=output,
                pass_fds=descriptors,
            )
        async with process:
            try:
                found = await _ready(process, data_dir / "server.json", log, same=not prefix)
                made = data_dir / "token"
                token = made.read_text().strip() if made.exists() else "none was made"
                running = RunningServer(found["url"], token, data_dir, home, model.model, process)
                yield running
                if process.returncode is None:
                    await running.stop()
            finally:
                if process.returncode is None:
                    process.kill()


async def _ready(process: Process, path: Path, log: Path, *, same: bool) -> Mapping[str, Any]:
    """Return the server's own description once it can be reached. ``same``: the server is the process itself."""
    with anyio.move_on_after(HANG_SECONDS):
        while process.returncode is None:
            if await anyio.Path(path).exists():
                entry: Mapping[str, Any] = json.loads(await anyio.Path(path).read_text())
                if entry["pid"] == process.pid or not same:
                    return entry
            await anyio.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{await anyio.Path(log).read_text()}")

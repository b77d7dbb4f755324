"""A server on a Ziti network that is a stand-in: reached by dialling, and by nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from subprocess import STDOUT

import anyio
import httpx
import psutil

from tests.support.enrolled import identity
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, ROOT, RunningServer, environment, running_server
from tests.support.sight import SEES_SERVERS
from tests.support.talk import Event, Talk
from tests.support.ziti import STANDIN, Network


@cache
def enrolled(port: int = 1280, *, days: int = 30) -> str:
    """Return the JSON of an enrolment: a key, and a certificate that is valid for ``days`` more. It opens nothing."""
    return json.dumps(identity(f"https://127.0.0.1:{port}", days=days))


def identity_file(net: Network, name: str = "server") -> Path:
    """An identity of the stand-in's, with a key and a certificate that are some."""
    path = net.identity_file(name)
    path.write_text(json.dumps({**json.loads(path.read_text()), "id": json.loads(enrolled())["id"]}))
    return path


def standin_environment(folder: Path, net: Network) -> dict[str, str]:
    """Return the environment in which a server's listener finds the stand-in for ``openziti``.

    Its own variables don't reach the listener, but its module path does: Python runs the ``sitecustomize`` on it.
    """
    site = folder / "site"
    site.mkdir(exist_ok=True)
    variables = {name: value for name, value in net.environment().items() if name != "PYTHONPATH"}
    (site / "sitecustomize.py").write_text(f"import os\nos.environ.update({variables!r})\n")
    return {"PYTHONPATH": f"{site}:{STANDIN}:{ROOT}"}


@asynccontextmanager
async def dark_server(
    folder: Path, net: Network, *arguments: str, services: str = "portico=alice", probed: bool = False, **variables: str
) -> AsyncIterator[RunningServer]:
    """A server in mode `ziti` with echoes for agents, as the identity ``server``."""
    settings = dark_settings(folder, net, services, probed=probed)
    async with running_server(folder, *arguments, **(settings | variables)) as server:
        yield server


def dark_settings(
    folder: Path, net: Network, services: str = "portico=alice", *, probed: bool = False
) -> dict[str, str]:
    """Return the variables of such a server, for whose services there are policies then."""
    names = [service.partition("=")[0] for service in services.split(",")]
    net.allow("server", bind=names, dial=names if probed else ())
    return {
        "NETWORKING_MODE": "ziti",
        "ZITI_IDENTITY_FILE": str(identity_file(net)),
        "ZITI_SERVICE_NAME": services,
        "PORTICO_DRIVER": "echo",
        **standin_environment(folder, net),
    }


async def refused_start(folder: Path, settings: dict[str, str], status: int = 1) -> str:
    """Return the output of a server that does not start."""
    home = folder / "home"
    home.mkdir()
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(
            [*PORTICO, "serve"],
            env=environment(home, PORTICO_DATA_DIR=str(folder / "data"), **settings),
            cwd=home,
            check=False,
            stderr=STDOUT,
        )
    assert done.returncode == status, done.stdout
    return done.stdout.decode()


def log_of(server: RunningServer) -> str:
    return (server.home.parent / "server.log").read_text()


def deltas(count: int, gap: float = 0.0) -> str:
    return json.dumps({"deltas": count, "gap": gap})


def listener(server: RunningServer) -> psutil.Process:
    (one,) = _children(server, "portico.ziti.listener")
    return one


def probes(server: RunningServer) -> list[psutil.Process]:
    return _children(server, "portico.ziti.dialling_process")


def _children(server: RunningServer, module: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):
            if module in child.cmdline():
                found.append(child)
    return found


def family(server: RunningServer) -> list[psutil.Process]:
    process = psutil.Process(server.process.pid)
    return [process, *process.children(recursive=True)]


def listening(server: RunningServer) -> Iterator[object]:
    """Sockets of any kind, of any of its processes, that somebody could connect to over a network.

    Those of the server itself only root sees.
    """
    for process in family(server)[0 if SEES_SERVERS else 1 :]:
        with suppress(psutil.NoSuchProcess):
            for one in process.net_connections(kind="inet"):
                if one.status == psutil.CONN_LISTEN or (one.type == 2 and not one.raddr):  # 2: a UDP socket
                    yield process.cmdline(), one


async def follow(http: httpx.AsyncClient, found: list[Event], wanted: int) -> None:
    """Add what comes behind the last event, until there is this ``seq`` or the connection breaks."""
    after = found[-1]["seq"] if found else 0
    with suppress(httpx.TransportError):
        async with Talk(http).follow("s", after) as following:
            async for event in following:
                found.append(event)
                if event["seq"] >= wanted:
                    break

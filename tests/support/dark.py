"""A server on a Ziti network that is a stand-in: reached by dialling, and by nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from tests.support.enrolled import identity
from tests.support.server import ROOT, RunningServer, running_server
from tests.support.ziti import STANDIN, Network


@cache
def enrolled(port: int = 1280, *, days: int = 30) -> str:
    """What enrolling makes: a key, and a certificate that is valid for so many days more. It is of no use."""
    return json.dumps(identity(f"https://127.0.0.1:{port}", days=days))


def identity_file(net: Network, name: str = "server") -> Path:
    """An identity of the stand-in's, with a key and a certificate that are some."""
    path = net.identity_file(name)
    path.write_text(json.dumps({**json.loads(path.read_text()), "id": json.loads(enrolled())["id"]}))
    return path


def standin_environment(folder: Path, net: Network) -> dict[str, str]:
    """What a server needs so that its listener has the stand-in for ``openziti``.

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
    names = [service.partition("=")[0] for service in services.split(",")]
    net.allow("server", bind=names, dial=names if probed else ())
    settings = {
        "NETWORKING_MODE": "ziti",
        "ZITI_IDENTITY_FILE": str(identity_file(net)),
        "ZITI_SERVICE_NAME": services,
        "PORTICO_DRIVER": "echo",
        **standin_environment(folder, net),
    }
    async with running_server(folder, *arguments, **(settings | variables)) as server:
        yield server


def log_of(server: RunningServer) -> str:
    return (server.home.parent / "server.log").read_text()

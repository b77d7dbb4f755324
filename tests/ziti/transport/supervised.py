"""A supervisor and the listener that it keeps running, on the stand-in for a Ziti network, without a server."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil

from portico.testing.background import background
from portico.transports.dialler import Dialler
from portico.ziti.listener.listener_control import Task
from portico.ziti.transport.supervisor import Supervisor
from tests.support.dark import identity_file
from tests.support.limits import HANG_SECONDS
from tests.support.ziti import STANDIN, Network, Refused


@dataclass
class Supervised:
    supervisor: Supervisor
    taken: list[Dialler] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    """Each status that there was: a state, or for waiting the reason."""
    delays: list[float] = field(default_factory=list)
    open: Counter[str] = field(default_factory=Counter)

    def note(self) -> None:
        status = self.supervisor.status
        said = status.reason if status.state == "waiting" else status.state
        if not self.states or self.states[-1] != said:
            self.states.append(said)
            if status.state == "waiting":
                self.delays.append(status.seconds)

    async def until(self, is_so: Callable[[], object]) -> None:
        with anyio.fail_after(HANG_SECONDS):
            while not is_so():
                await anyio.sleep(0.01)

    async def bound(self) -> None:
        await self.until(lambda: self.supervisor.status.trouble() is None)

    async def failure(self, count: int | None = None) -> str:
        """The reason of the next failure, or of one behind the first ``count``."""
        count = self.supervisor.status.failures if count is None else count
        await self.until(lambda: self.supervisor.status.failures > count)
        return next(said for said in reversed(self.states) if said not in ("loading", "binding", "bound", "starting"))

    async def answer(self, connections: Any) -> None:
        """Be the server: take each connection, answer what is asked, and close it."""
        async with anyio.create_task_group() as tasks:
            async for connection, dialler in connections:
                self.taken.append(dialler)
                tasks.start_soon(self._answer, connection, dialler.service)

    async def _answer(self, connection: socket.socket, service: str) -> None:
        connection.setblocking(False)
        self.open[service] += 1
        with connection, suppress(OSError):
            await anyio.wait_readable(connection)
            if connection.recv(1000):
                connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.open[service] -= 1


def listener() -> psutil.Process:
    """The listener process that is this process's child."""
    (found,) = _children("portico.ziti.listener")
    return found


def probes() -> list[psutil.Process]:
    """The processes that dial, which are this process's children."""
    return _children("portico.ziti.dialling_process")


def _children(module: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if module in child.cmdline():
                found.append(child)
    return found


async def works(net: Network, service: str = "portico") -> bool:
    """Tell whether somebody at the other end answers."""
    with anyio.fail_after(HANG_SECONDS):
        try:
            with await net.dial(service) as connection:
                await anyio.to_thread.run_sync(connection.sendall, b"hello")
                return bool(await anyio.to_thread.run_sync(connection.recv, 100))
        except (Refused, OSError):
            return False


async def recovers(net: Network, running: Supervised) -> None:
    await running.bound()
    await net.bound("portico")
    assert await works(net)


@asynccontextmanager
async def supervised(
    net: Network,
    *services: str,
    patient: bool = True,
    required: bool = False,
    probed: bool = False,
    modules: Path = STANDIN,
    **limits: Any,
) -> AsyncIterator[Supervised]:
    """``limits`` are fields of `Task`; ``modules`` is where the listener finds ``openziti``."""
    services = services or ("portico",)
    path = identity_file(net)
    net.allow("server", bind=services, dial=services if probed else ())
    environment = {"PATH": os.environ["PATH"], **net.environment()}
    task = replace(Task(str(path), services, "/probe"), **limits)
    send, receive = anyio.create_memory_object_stream[tuple[socket.socket, Dialler]](0)
    before = sys.path[:]
    sys.path.insert(0, str(modules))  # where the listener looks too
    found: list[Supervised] = []
    supervisor = Supervisor(
        task,
        environment,
        send,
        check=lambda: None,
        dialler=partial(Dialler),
        changed=lambda: found[0].note(),
        in_use=lambda service: found[0].open[service] > 0,
        required=required,
        first_delay=0.05,
    )
    supervisor.patient = patient
    found.append(Supervised(supervisor))
    try:
        with send, receive:
            async with background() as tasks:
                tasks.start_soon(found[0].answer, receive)
                await tasks.start(supervisor.run)
                try:
                    yield found[0]
                finally:
                    await supervisor.stop()
    finally:
        sys.path[:] = before
    assert not _children("portico.ziti.listener") and not probes()

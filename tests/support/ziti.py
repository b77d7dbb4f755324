"""A stand-in for a Ziti network: controller, routers and, for the server's child process, the module ``openziti``.

::

    async with network(tmp_path, "0.6") as net:            # or "1.x": the shape of the module
        file = net.identity_file("server")                 # an enrolled identity, mode 0600
        net.allow("server", bind=["portico"])              # services exist once somebody may bind or dial them
        net.allow("alice", dial=["portico"])
        net.environment()                                  # for the process whose (grand)child imports openziti
        await net.bound("portico")                         # wait until it has that many terminators (1)
        socket = await net.dial("portico")                 # plain blocking socket; as "alice": identity="alice"
        async with net.http("portico") as client:          # httpx.AsyncClient, a dial for each connection
            await client.get("/healthz")
        async with net.websocket("portico", "/claude/ws/s") as talk:  # tests.support.websocket.Client
            ...

`dial` waits until the server's side has accepted, and raises `Refused` with libziti's code where it does not. Without
an identity there is no policy to pass. ``caller`` is the name that the server gets to see, whoever dials.

Misbehaviour, for an identity or a service, changed while all runs (``net.moods("server", load="hang")``; None: as usual
again). "0.6" keeps descriptors, takes its backlog for a lifetime limit and raises EAGAIN as a plain Exception, "1.x"
does not: no mood is needed for that.

=========== ======================================================================================================
load        "hang": for ever, "unanswered": a controller that never answers (0.6 hangs, 1.x -20 at its time limit),
            "segfault", or a code to fail with (0.6: TypeError, and the next load of that path hangs)
bind        "hang", "segfault", or a code
connect     "hang", "segfault", or a code
beside      "segfault": the dial of a process that has bound something, as 0.6.0 was seen to crash now and then
accept      "einval": fails at once, for ever; "lost": the binding is gone without a word (no terminator, accept
            never returns); "segfault": at the next one; "hang": dialled, taken, never handed out
accept_wait seconds that each accept takes
recovers    seconds after which a binding comes back once routers do; None: never (0.6 where the controller was away
            at the same time: never, unless told)
dial_wait   seconds after which a dial that nobody accepts fails (-19; -20 in 1.x)
=========== ======================================================================================================

``net.outage(controller="refuses" | "silent" | "up", router="down" | "up")``: connections break with the router, the
binding survives the controller; without both, dials say "invalid state". ``net.forbid("server")`` withdraws policies,
``net.forbid("server", "bind")`` those of one kind, ``net.delete("portico")`` removes a service: its connections break
at once. While the identity may still dial a service, accept goes on waiting; else it fails, for ever: with EINVAL,
which 0.6 calls "crypto failure". ``net.state()`` tells bindings (pid, connections taken, TCP_NODELAY or not) and live
connections.

A server within the test itself needs `STANDIN` on its ``sys.path``, and the rest of ``environment()`` where its
listener gets its variables from. The network listens in a process of its own, a child of the test and not of the
server.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any, Literal

import anyio
import httpcore
import httpx
from anyio.abc import Process
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.support.limits import HANG_SECONDS
from tests.support.websocket import V1, Client

Shape = Literal["0.6", "1.x"]

STANDIN = Path(__file__).parent / "openziti_standin"


class Refused(Exception):
    """A dial that failed, with libziti's ``code``."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the dial was refused: {code}")
        self.code = code


@dataclass(slots=True)
class Network:
    """See the module. ``folder`` is the network's own, ``identities`` is where identity files are written."""

    folder: Path
    identities: Path
    shape: Shape
    _said: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._said = {
            "shape": self.shape,
            "controller": "up",
            "router": "up",
            "identities": [],
            "policies": {},
            "moods": {},
        }
        self._write()

    def identity_file(self, name: str) -> Path:
        """A new identity, or that of this name once more; a real one's fields, and readable for us alone."""
        path = self.identities / f"{name}.json"
        keys = {"key": "pem:a key", "cert": "pem:a certificate", "ca": "pem:an authority"}
        path.touch(mode=0o600)
        path.write_text(json.dumps({"ztAPI": "https://127.0.0.1:1280", "id": keys, "standin": name}))
        if name not in self._said["identities"]:
            self._said["identities"].append(name)
            self._write()
        return path

    def allow(self, identity: str, *, bind: Iterable[str] = (), dial: Iterable[str] = ()) -> None:
        """Let an identity bind and dial services, beside those that it may already."""
        found = self._said["policies"].setdefault(identity, {"bind": [], "dial": []})
        found["bind"] += bind
        found["dial"] += dial
        self._write()

    def forbid(self, identity: str, *kinds: Literal["bind", "dial"], service: str | None = None) -> None:
        """Withdraw policies of an identity: all, those of some kinds, or for one service. Its services still exist."""
        found = self._said["policies"][identity]
        kept = self._said["policies"].setdefault("nobody", {"bind": [], "dial": []})
        for kind in kinds or ("bind", "dial"):
            taken = [one for one in found[kind] if service in (None, one)]
            kept[kind] += taken
            found[kind] = [one for one in found[kind] if one not in taken]
        self._write()

    def delete(self, service: str) -> None:
        """Remove a service, and all policies for it."""
        for policies in self._said["policies"].values():
            for kind, services in policies.items():
                policies[kind] = [one for one in services if one != service]
        self._write()

    def moods(self, name: str, **moods: Any) -> None:
        """Change how the library behaves for an identity or a service; None: as usual."""
        found = {**self._said["moods"].get(name, {}), **moods}
        keep = ("recovers",)  # where None says something
        self._said["moods"][name] = {key: mood for key, mood in found.items() if mood is not None or key in keep}
        self._write()

    def outage(
        self,
        *,
        controller: Literal["up", "refuses", "silent"] | None = None,
        router: Literal["up", "down"] | None = None,
    ) -> None:
        """Take the controller or the router away, or bring it back; what is not named stays as it is."""
        self._said["controller"] = controller or self._said["controller"]
        self._said["router"] = router or self._said["router"]
        self._write()

    def environment(self) -> dict[str, str]:
        """Return the variables that a process needs beside ``os.environ`` to have the stand-in for ``openziti``."""
        path = os.pathsep.join(filter(None, [str(STANDIN), os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "ZITI_STANDIN_NETWORK": str(self.folder), "ZITI_STANDIN_SHAPE": self.shape}

    async def dial(self, service: str, *, identity: str | None = None, caller: str | None = None) -> socket.socket:
        """A connected, blocking socket, which is the caller's to close. Raises `Refused`, and TimeoutError."""
        answer, sockets = await self._ask("dial", service=service, identity=identity, caller=caller)
        if code := answer.get("error"):
            raise Refused(code)
        return sockets[0]

    async def state(self) -> list[dict[str, Any]]:
        """The bindings: identity, service, pid, present, listening, accepted, open, nodelay."""
        answer, _ = await self._ask("state")
        bindings: list[dict[str, Any]] = answer["bindings"]
        return bindings

    async def bound(self, service: str, number: int = 1) -> list[dict[str, Any]]:
        """Wait until a service can be dialled at so many places (0: is gone)."""
        with anyio.fail_after(HANG_SECONDS):
            while True:
                found = [
                    one
                    for one in await self.state()
                    if one["service"] == service and one["present"] and one["listening"]
                ]
                if len(found) == number:
                    return found
                await anyio.sleep(0.02)

    @asynccontextmanager
    async def http(
        self, service: str, *, identity: str | None = None, **options: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        """A client whose connections are dials. What is refused is `httpx.ConnectError`."""
        transport = httpx.AsyncHTTPTransport()
        transport._pool = httpcore.AsyncConnectionPool(
            network_backend=_Dialler(self, service, identity), max_connections=None, keepalive_expiry=5
        )
        options = {"base_url": "http://localhost", "timeout": HANG_SECONDS, **options}
        async with httpx.AsyncClient(transport=transport, **options) as client:
            yield client

    @asynccontextmanager
    async def websocket(
        self,
        service: str,
        path: str = "/claude/ws/s",
        *,
        identity: str | None = None,
        caller: str | None = None,
        headers: dict[str, str] | None = None,
        v1: bool = False,
        **options: Any,
    ) -> AsyncIterator[Client]:
        """A WebSocket over a dialled connection, without a token unless ``headers`` bring one."""
        options = {"compression": None, "max_size": None, "proxy": None, "close_timeout": 2, **options}
        protocols = [Subprotocol(V1)] if v1 else None
        dialled = await self.dial(service, identity=identity, caller=caller)
        dialled.setblocking(False)
        async with connect(
            f"ws://localhost{path}", sock=dialled, additional_headers=headers, subprotocols=protocols, **options
        ) as connection:
            yield Client(connection)

    def _write(self) -> None:
        new = self.folder / "network.new"
        new.write_text(json.dumps(self._said))
        new.replace(self.folder / "network.json")

    async def _ask(self, op: str, **request: Any) -> tuple[dict[str, Any], Sequence[socket.socket]]:
        """The broker's answer. What was dialled outlives the conversation with which it was."""
        with anyio.fail_after(HANG_SECONDS):
            async with await anyio.connect_unix(self.folder / "broker") as stream:
                await stream.send(json.dumps({"op": op, **request}).encode())
                answer, fds = await stream.receive_fds(65536, 1)
        return json.loads(answer), [socket.socket(fileno=fd) for fd in fds]


class _Dialler(httpcore.AsyncNetworkBackend):
    def __init__(self, network: Network, service: str, identity: str | None) -> None:
        self._network, self._service, self._identity = network, service, identity

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        try:
            return _Stream(await self._network.dial(self._service, identity=self._identity))
        except (Refused, TimeoutError) as error:
            raise httpcore.ConnectError(f"{error}") from error

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """A dialled socket, as httpcore wants it."""

    def __init__(self, dialled: socket.socket) -> None:
        self._socket = dialled
        dialled.setblocking(False)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            with anyio.fail_after(timeout):
                while True:
                    try:
                        return self._socket.recv(max_bytes)
                    except BlockingIOError:
                        await anyio.wait_readable(self._socket)
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        except (OSError, anyio.ClosedResourceError) as error:
            raise httpcore.ReadError(f"{error}") from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        rest = memoryview(buffer)
        try:
            with anyio.fail_after(timeout):
                while rest:
                    try:
                        rest = rest[self._socket.send(rest) :]
                    except BlockingIOError:
                        await anyio.wait_writable(self._socket)
        except TimeoutError as error:
            raise httpcore.WriteTimeout from error
        except (OSError, anyio.ClosedResourceError) as error:
            raise httpcore.WriteError(f"{error}") from error

    async def aclose(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._socket.fileno() >= 0 and _readable(self._socket)
        return None


def _readable(stream: socket.socket) -> bool:
    """Tell whether data or the end has come: httpcore drops such a connection if nothing was requested on it."""
    try:
        stream.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@asynccontextmanager
async def network(identities: Path, shape: Shape = "0.6") -> AsyncIterator[Network]:
    """A network of its own, up while this lasts. Identity files go into ``identities``."""
    # Not within the test's folder: the path of a Unix socket may not be long.
    with tempfile.TemporaryDirectory(prefix="ziti-") as folder:
        made = Network(Path(folder), identities, shape)
        command = [sys.executable, str(STANDIN / "broker.py"), folder]
        async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=None) as broker:
            try:
                await _up(broker)
                yield made
            finally:
                with anyio.CancelScope(shield=True):
                    broker.kill()
                    await broker.wait()


async def _up(broker: Process) -> None:
    assert broker.stdout is not None
    with anyio.fail_after(HANG_SECONDS):
        await broker.stdout.receive()  # "up"; else it has ended, and that raises

"""Controller and router in one process: knows who may do what, and carries the bytes. ``python broker.py FOLDER``

``FOLDER/network.json`` says all that may change (see `tests.support.ziti`); it is read again whenever it has changed.
One Unix socket, at ``FOLDER/broker``; one request in JSON on each connection, and one answer, with a descriptor where
one is due. What was asked for lasts as long as the connection: a process that dies takes all of its own with it.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream, UNIXSocketStream

Message = dict[str, Any]

CODES: Mapping[str, Mapping[str, int]] = {
    "0.6": {
        "auth": -14,
        "controller": -15,
        "service": -17,
        "policy": -34,
        "terminator": -23,
        "timeout": -19,
        "state": -21,
    },
    "1.x": {
        "auth": -14,
        "controller": -20,
        "service": -18,
        "policy": -18,
        "terminator": -24,
        "timeout": -20,
        "state": -22,
    },
}
EBADF, EAGAIN, EINVAL = 9, 11, 22
NAGLE_SECONDS = 0.042
"""The delay of a response if nobody has set TCP_NODELAY on the connection to the router."""
TICK = 0.02


@dataclass(eq=False)
class Dial:
    """A dialled connection that nobody has accepted yet. The acceptor puts its own end into ``far``."""

    caller: str
    far: socket.socket | None = None
    code: int = 0
    answered: anyio.Event = field(default_factory=anyio.Event)

    def fail(self, code: int) -> None:
        self.code = code
        self.answered.set()


@dataclass(eq=False)
class Accept:
    """A process that waits in accept."""

    dial: Dial | None = None
    error: int = 0
    done: anyio.Event = field(default_factory=anyio.Event)


@dataclass(eq=False)
class Binding:
    number: int
    identity: str
    service: str
    pid: int
    notify: socket.socket
    present: bool
    room: int = 0
    """Connections that may wait to be accepted; in 0.6 it shrinks with each that had to."""
    listening: bool = False
    gone: bool = False
    returns: float = math.inf
    accepted: int = 0
    nodelay: bool = False
    backlog: deque[Dial] = field(default_factory=deque)
    waiting: deque[Accept] = field(default_factory=deque)
    ends: set[socket.socket] = field(default_factory=set)

    def lose(self) -> None:
        """Do as libziti does when a binding fails: it forgets the caller in accept, and the caller waits on."""
        self.gone, self.present = True, False
        self.notify.close()
        self.waiting.clear()

    def cut(self) -> None:
        """Break what is open."""
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Broker:
    def __init__(self, folder: Path) -> None:
        self._file = folder / "network.json"
        self._stamp: tuple[int, int] | None = None
        self._state: Message = {}
        self._bindings: dict[int, Binding] = {}
        self._router = True
        self._both_away = False
        self._count = 0
        self.port = 0
        self._handlers: dict[str, Callable[[UNIXSocketStream, Message], Awaitable[None]]] = {
            "load": self._load,
            "bind": self._bind,
            "listen": self._listen,
            "accept": self._accept,
            "connect": self._connect,
            "dial": self._connect,
            "state": self._tell,
        }
        self._read()

    # What is so now

    def _read(self) -> None:
        found = self._file.stat()
        if (stamp := (found.st_ino, found.st_mtime_ns)) != self._stamp:
            self._stamp, self._state = stamp, json.loads(self._file.read_text())
            self._follow()

    def _mood(self, *names: str) -> Message:
        return {key: value for name in names for key, value in self._state["moods"].get(name, {}).items()}

    def _policy(self, identity: str, what: str) -> list[str]:
        found: list[str] = self._state["policies"].get(identity, {}).get(what, [])
        return found

    def _code(self, what: str) -> int:
        return CODES[self._state["shape"]][what]

    def _may(self, identity: str | None, what: str, service: str) -> int:
        if not any(service in one.get(kind, ()) for one in self._state["policies"].values() for kind in one):
            return self._code("service")
        return 0 if identity is None or service in self._policy(identity, what) else self._code("policy")

    def _follow(self) -> None:
        """Let bindings suffer what has changed."""
        router, controller = self._state["router"] == "up", self._state["controller"] == "up"
        now = anyio.current_time()
        self._both_away = not router and (self._both_away or not controller)
        for binding in self._bindings.values():
            mood = self._mood(binding.identity, binding.service)
            if binding.gone:
                continue
            if mood.get("accept") == "einval":
                waiting = list(binding.waiting)
                binding.lose()
                for one in waiting:
                    one.error = EINVAL
                    one.done.set()
            elif binding.service not in self._policy(binding.identity, "bind"):
                binding.cut()
                binding.present, binding.returns = False, math.inf
                # Of a service that it still sees the library says nothing: accept goes on waiting.
                if binding.service not in self._policy(binding.identity, "dial"):
                    binding.lose()
            elif not router:
                if self._both_away and self._state["shape"] == "0.6" and "recovers" not in mood:
                    binding.returns = math.inf
                binding.present = False
                binding.cut()
            elif not self._router and math.isfinite(binding.returns):
                recovers = mood.get("recovers", 0.2)
                binding.returns = math.inf if recovers is None else now + recovers
        self._router = router

    async def tick(self) -> None:
        while True:
            self._read()
            for binding in self._bindings.values():
                if self._router and not binding.gone and not binding.present:
                    binding.present = anyio.current_time() >= binding.returns
            await anyio.sleep(TICK)

    # What is asked for

    async def handle(self, stream: SocketStream) -> None:
        assert isinstance(stream, UNIXSocketStream)
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                request = json.loads(await stream.receive())
                self._read()
                await self._handlers[request["op"]](stream, request)

    async def router(self, stream: SocketStream) -> None:
        """A process's connection to the router: there so that TCP_NODELAY can be set on it."""
        async with stream:
            await _until_closed(stream)

    async def _load(self, stream: UNIXSocketStream, request: Message) -> None:
        identity = request["identity"]
        mood = self._mood(identity).get("load")
        if mood == "segfault":
            await _answer(stream, {"segfault": True})
        elif isinstance(mood, int):
            await _answer(stream, {"error": mood})
        elif mood is None and self._state["controller"] == "refuses" and self._state["shape"] == "0.6":
            await _answer(stream, {"error": self._code("controller")})
        elif mood is None and identity in self._state["identities"]:
            # The later library keeps asking a controller that is away; the earlier asks once.
            while self._state["controller"] != "up" or not any(self._state["policies"].get(identity, {}).values()):
                if self._state["shape"] == "0.6":
                    await _until_closed(stream)
                    return
                await anyio.sleep(TICK)
            await _answer(stream, {})
        elif mood is None:
            await _answer(stream, {"error": self._code("auth")})
        await _until_closed(stream)

    async def _bind(self, stream: UNIXSocketStream, request: Message) -> None:
        identity, service = request["identity"], request["service"]
        mood = self._mood(identity, service).get("bind")
        early = self._state["shape"] == "0.6"
        if mood == "segfault":
            await _answer(stream, {"segfault": True})
        elif isinstance(mood, int) or (mood := self._may(identity, "bind", service) if mood is None else mood):
            if isinstance(mood, int):
                await _answer(stream, {"error": mood})
            await _until_closed(stream)
        elif early and not self._router:
            await _until_closed(stream)
        else:
            self._count += 1
            near, far = await _pair(early)
            binding = Binding(self._count, identity, service, request["pid"], far, self._router, returns=0)
            self._bindings[binding.number] = binding
            try:
                await _answer(stream, {"binding": binding.number, "router": self.port}, near)
                await _until_closed(stream)
            finally:
                del self._bindings[binding.number]
                binding.notify.close()
                binding.cut()
                for dial in binding.backlog:
                    dial.fail(self._code("terminator"))

    async def _listen(self, stream: UNIXSocketStream, request: Message) -> None:
        if binding := self._bindings.get(request["binding"]):
            binding.listening, binding.room = True, request["backlog"]
        await _answer(stream, {} if binding else {"error": EBADF})

    async def _accept(self, stream: UNIXSocketStream, request: Message) -> None:
        binding = self._bindings.get(request["binding"])
        if binding is None or binding.gone or not binding.listening:
            await _answer(stream, {"error": EBADF if binding and not binding.listening else EINVAL})
            return
        mood = self._mood(binding.identity, binding.service)
        binding.nodelay = request["nodelay"]
        await anyio.sleep(mood.get("accept_wait", 0))
        if mood.get("accept") == "hang":
            await _until_closed(stream)
        elif binding.backlog and mood.get("accept") != "lost":
            await self._hand_out(stream, binding, binding.backlog.popleft())
        elif not request["blocking"]:
            await _answer(stream, {"error": EAGAIN})
        else:
            await self._park(stream, binding)

    async def _park(self, stream: UNIXSocketStream, binding: Binding) -> None:
        accept = Accept()
        binding.waiting.append(accept)

        async def watch() -> None:
            await _until_closed(stream)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            try:
                await accept.done.wait()
            finally:
                with suppress(ValueError):
                    binding.waiting.remove(accept)
            tasks.cancel_scope.cancel()
        if accept.dial is not None:
            await self._hand_out(stream, binding, accept.dial)
        elif accept.error:
            await _answer(stream, {"error": accept.error})

    async def _hand_out(self, stream: UNIXSocketStream, binding: Binding, dial: Dial) -> None:
        if self._mood(binding.identity, binding.service).get("accept") == "segfault":
            await _answer(stream, {"segfault": True})
            dial.fail(self._code("terminator"))
            return
        near, far = await _pair(self._state["shape"] == "0.6")
        try:
            await _answer(stream, {"caller": dial.caller}, near)
        except BaseException:
            far.close()
            dial.fail(self._code("terminator"))
            raise
        binding.accepted += 1
        binding.ends.add(far)
        dial.far = far
        dial.answered.set()
        # The connection tells the library's process, by its end, that the bridge is closed.
        while far in binding.ends:
            await anyio.sleep(TICK)

    async def _connect(self, stream: UNIXSocketStream, request: Message) -> None:
        identity, service = request["identity"], request["service"]
        mood = self._mood(*([] if identity is None else [identity]), service)
        if mood.get("connect") == "hang":
            await _until_closed(stream)
            return
        bound_here = any(binding.pid == request.get("pid") for binding in self._bindings.values())
        if mood.get("connect") == "segfault" or (mood.get("beside") == "segfault" and bound_here):
            await _answer(stream, {"segfault": True})
            return
        code = mood.get("connect") or self._may(identity, "dial", service)
        if not self._router and self._state["controller"] != "up":
            code = self._code("state")
        # A later library says that it is connected before it is; what fails then is the connection.
        optimistic = request["op"] == "connect" and self._state["shape"] != "0.6"
        if code:
            await _answer(stream, {"error": code})
            return
        near, far = await _pair(not optimistic)
        if optimistic:
            await _answer(stream, {}, near)
        dial = Dial(request.get("caller") or identity or "")
        binding = await self._dial(service, dial, mood.get("dial_wait", 5.0))
        if dial.far is None or binding is None:
            if optimistic:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            else:
                near.close()
                await _answer(stream, {"error": dial.code or self._code("timeout")})
            far.close()
            return
        if not optimistic:
            await _answer(stream, {}, near)
        try:
            await self._relay(far, dial.far, binding)
        finally:
            binding.ends.discard(dial.far)
            far.close()
            dial.far.close()

    async def _dial(self, service: str, dial: Dial, seconds: float) -> Binding | None:
        if not self._router:
            await anyio.sleep(seconds)
            return None
        for binding in sorted(self._bindings.values(), key=lambda one: one.accepted):
            mood = self._mood(binding.identity, binding.service)
            if binding.service != service or not binding.present or mood.get("accept") == "lost":
                continue
            if binding.waiting and mood.get("accept") != "hang":
                accept = binding.waiting.popleft()
                accept.dial = dial
                accept.done.set()
            elif binding.room > (0 if self._state["shape"] == "0.6" else len(binding.backlog)):
                binding.room -= self._state["shape"] == "0.6"
                binding.backlog.append(dial)
            else:
                break
            with suppress(OSError):
                binding.notify.send(b"\1", socket.MSG_DONTWAIT)
            with anyio.move_on_after(seconds):
                await dial.answered.wait()
            with suppress(ValueError):
                binding.backlog.remove(dial)
            return binding
        dial.code = self._code("terminator")
        return None

    async def _relay(self, client: socket.socket, server: socket.socket, binding: Binding) -> None:
        async def copy(source: socket.socket, target: socket.socket, *, back: bool) -> None:
            try:
                while data := await _receive(source):
                    if back and self._state["shape"] != "0.6" and not binding.nodelay:
                        await anyio.sleep(NAGLE_SECONDS)
                    await _send(target, data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                for end in (source, target):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: copy(client, server, back=False))
            tasks.start_soon(lambda: copy(server, client, back=True))

    async def _tell(self, stream: UNIXSocketStream, request: Message) -> None:
        bindings = [
            {
                "identity": one.identity,
                "service": one.service,
                "pid": one.pid,
                "present": one.present and self._mood(one.identity, one.service).get("accept") != "lost",
                "listening": one.listening,
                "accepted": one.accepted,
                "open": len(one.ends),
                "nodelay": one.nodelay,
            }
            for one in self._bindings.values()
        ]
        await _answer(stream, {"bindings": bindings})


async def _answer(stream: UNIXSocketStream, message: Message, near: socket.socket | None = None) -> None:
    data = json.dumps(message).encode() + b"\n"
    if near is None:
        await stream.send(data)
        return
    with near:
        await stream.send_fds(data, [near.fileno()])


async def _until_closed(stream: SocketStream) -> None:
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await stream.receive()


async def _pair(early: bool) -> tuple[socket.socket, socket.socket]:
    """The library's user's end, and ours: a socketpair, and in later versions connected over loopback."""
    if early:
        near, far = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
    far.setblocking(False)
    return near, far


async def _receive(source: socket.socket) -> bytes:
    while True:
        try:
            return source.recv(256 * 1024)
        except BlockingIOError:
            await anyio.wait_readable(source)


async def _send(target: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[target.send(rest) :]
        except BlockingIOError:
            await anyio.wait_writable(target)


async def main(folder: Path) -> None:
    async with (
        anyio.create_task_group() as tasks,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as router,
        await anyio.create_unix_listener(folder / "broker", backlog=1024) as controller,
    ):
        broker = Broker(folder)
        broker.port = router.extra(SocketAttribute.local_port)  # noqa: S610
        tasks.start_soon(broker.tick)
        tasks.start_soon(router.serve, broker.router)
        tasks.start_soon(controller.serve, broker.handle)
        print("up", flush=True)
        # Whoever has started us holds the other end: nothing is left where that dies.
        await anyio.wait_readable(sys.stdin)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))

"""The stand-in for ``openziti`` does what the real one was seen to do: what is tested with it is tested with that."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from subprocess import PIPE

import anyio
import httpx
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from tests.support.limits import HANG_SECONDS
from tests.support.ziti import Network, Refused, Shape, network

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")]


both = pytest.mark.parametrize("shape", ["0.6", "1.x"])

LOAD = """
import os, socket, sys, threading, time
import openziti
path, later = sys.argv[1], hasattr(openziti, "ZitiContext")
def say(*words):
    print(*words, flush=True)
def tried(do):
    try:
        return do()
    except Exception as error:
        return f"{type(error).__name__}{error.args}"
def load(timeout=300):
    return openziti.load(path, timeout=timeout) if later else (openziti.load(path), 0)
"""
BIND = (
    LOAD
    + """
context, code = load()
bound = context.bind("svc")
bound.listen(2**31 - 1)
bound.setblocking(True)
say("bound")
"""
)
ECHO = (
    BIND
    + """
kept = []
while True:
    connection, peer = bound.accept()
    say(*peer)
    connection.setblocking(True)
    kept.append(connection)
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
"""
)


@dataclass
class Child:
    process: Process
    _text: TextReceiveStream
    _rest: str = ""

    async def line(self) -> str:
        with anyio.fail_after(HANG_SECONDS):
            while "\n" not in self._rest:
                self._rest += await self._text.receive()
        line, _, self._rest = self._rest.partition("\n")
        return line

    async def code(self) -> int:
        with anyio.fail_after(HANG_SECONDS):
            return await self.process.wait()

    async def silent(self, seconds: float = 0.3) -> bool:
        """Tell whether it neither says anything nor ends for so long."""
        with anyio.move_on_after(seconds):
            self._rest += await self._text.receive()
        return not self._rest


@asynccontextmanager
async def child(net: Network, script: str, path: Path | str | None = None) -> AsyncIterator[Child]:
    """A process that does this with the stand-in; its identity may bind and dial ``svc`` unless ``path`` names one."""
    if path is None:
        path = net.identity_file("server")
        net.allow("server", bind=["svc"], dial=["svc"])
    command = [sys.executable, "-c", script, str(path)]
    async with await anyio.open_process(command, env=net.environment(), stdout=PIPE, stderr=None) as process:
        assert process.stdout is not None
        try:
            yield Child(process, TextReceiveStream(process.stdout))
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()


async def said(net: Network, script: str, path: Path | str | None = None) -> str:
    """The one line that it says."""
    async with child(net, script, path) as process:
        return await process.line()


async def received(stream: socket, size: int = 65536) -> bytes:
    stream.settimeout(HANG_SECONDS)
    return await anyio.to_thread.run_sync(stream.recv, size)


@both
async def test_what_is_dialled_is_accepted_and_bytes_go_both_ways(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, child(net, ECHO) as server:
        assert await server.line() == "bound"
        net.allow("alice", dial=["svc"])
        with await net.dial("svc", identity="alice") as stream:
            assert await server.line() == "alice 0"
            stream.sendall(b"hello")
            assert await received(stream) == b"hello"
            (binding,) = await net.state()
            assert binding["pid"] == server.process.pid
            assert (binding["accepted"], binding["open"]) == (1, 1)


@both
async def test_any_name_can_be_claimed_and_policies_hold(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, child(net, ECHO) as server:
        assert await server.line() == "bound"
        net.allow("alice", dial=["svc"])
        with await net.dial("svc", identity="alice", caller="root"):
            assert await server.line() == "root 0"
        with pytest.raises(Refused) as refused:
            await net.dial("svc", identity="mallory")
        assert refused.value.code == (-34 if shape == "0.6" else -18)


@both
async def test_a_process_that_dies_takes_its_connections_with_it(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, child(net, ECHO) as server:
        assert await server.line() == "bound"
        with await net.dial("svc") as stream:
            await server.line()
            server.process.kill()
            assert await received(stream) == b""
        with pytest.raises(Refused) as refused:
            await net.dial("svc")
        assert refused.value.code == (-23 if shape == "0.6" else -24)


@both
async def test_identities_that_are_none(tmp_path: Path, shape: Shape) -> None:
    tell = LOAD + "say(tried(lambda: load()[1]))"
    no_pointer = "TypeError('ctx is not a valid python void pointer type',)"
    (tmp_path / "garbage").write_text("garbage")
    (tmp_path / "bare").write_text("{}")
    async with network(tmp_path, shape) as net:
        assert (await said(net, tell, "/nowhere")).startswith("ValueError")
        assert await said(net, tell, tmp_path / "garbage") == (no_pointer if shape == "0.6" else "-13")
        if shape == "0.6":
            async with child(net, tell, tmp_path / "bare") as crashing:
                assert await crashing.code() == -signal.SIGSEGV
        else:
            assert await said(net, tell, tmp_path / "bare") == "-13"
        unseeing = net.identity_file("unseeing")
        async with child(net, tell, unseeing) as waiting:
            assert await waiting.silent() if shape == "0.6" else await waiting.line() == "-20"


@both
async def test_a_load_that_hangs_does_so_in_c(tmp_path: Path, shape: Shape) -> None:
    script = (
        LOAD
        + """
def others():
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name != "result":
        time.sleep(0.05)
    time.sleep(0.1)
    say("loading")
    time.sleep(0.2)
    say("others go on")
threading.Thread(target=others).start()
load(0)
"""
    )
    async with network(tmp_path, shape) as net:
        net.moods("server", load="hang" if shape == "0.6" else "unanswered")
        async with child(net, script) as process:
            assert await process.line() == "loading"
            process.process.send_signal(signal.SIGINT)
            assert await process.line() == "others go on"
            assert await process.silent()


@both
async def test_a_segfault_and_codes_on_demand(tmp_path: Path, shape: Shape) -> None:
    tell = LOAD + "say(tried(lambda: load()[0].bind('svc')))"
    async with network(tmp_path, shape) as net:
        for what in ("load", "bind"):
            net.moods("server", **{what: "segfault"})
            async with child(net, tell) as process:
                assert await process.code() == -signal.SIGSEGV
            net.moods("server", **{what: None})
        net.moods("server", bind=-5)
        assert "(-5, " in await said(net, tell)
        net.moods("server", bind="hang")
        async with child(net, tell) as process:
            assert await process.silent()
        net.moods("server", bind=None)
        net.forbid("server")
        net.allow("seeing", dial=["other"])
        answer = await said(net, tell, net.identity_file("seeing"))
        assert ("(-34, " if shape == "0.6" else "(-18, ") in answer


@both
async def test_an_accept_that_finds_nothing(tmp_path: Path, shape: Shape) -> None:
    tell = BIND + "bound.setblocking(False); say(tried(bound.accept))"
    async with network(tmp_path, shape) as net, child(net, tell) as process:
        await process.line()
        assert await process.line() == ("Exception(11, 'unexpected error')" if shape == "0.6" else "BlockingIOError()")


@both
async def test_the_early_library_keeps_a_second_descriptor(tmp_path: Path, shape: Shape) -> None:
    script = (
        BIND
        + """
connection, _ = bound.accept()
inode = os.fstat(connection.fileno()).st_ino
closed = connection.fileno()
connection.close()
say("closed")
sys.stdin.readline()
for name in map(int, os.listdir("/proc/self/fd")):
    if os.path.exists(f"/proc/self/fd/{name}") and os.fstat(name).st_ino == inode:
        os.close(name)
say("closed all")
time.sleep(60)
"""
    )
    async with (
        network(tmp_path, shape) as net,
        child(net, script.replace("sys.stdin.readline()", "time.sleep(0.4)")) as server,
    ):
        await server.line()
        with await net.dial("svc") as stream:
            assert await server.line() == "closed"
            stream.settimeout(0.1)
            if shape == "0.6":
                with pytest.raises(TimeoutError):
                    stream.recv(1)
            assert await server.line() == "closed all"
            assert await received(stream) == b""


@both
async def test_the_early_backlog_is_for_a_lifetime(tmp_path: Path, shape: Shape) -> None:
    script = (
        LOAD
        + """
import select
bound = load()[0].bind("svc")
bound.listen(2)
bound.setblocking(False)
say("bound")
while select.select([bound], [], []):
    say(tried(bound.accept))
"""
    )
    async with network(tmp_path, shape) as net, child(net, script) as server:
        await server.line()
        for _ in range(2):
            (await net.dial("svc")).close()
        if shape == "0.6":
            with pytest.raises(Refused):
                await net.dial("svc")
        else:
            (await net.dial("svc")).close()


@both
@pytest.mark.parametrize("how", ["withdrawn", "mood"])
async def test_a_lost_binding_fails_for_ever(tmp_path: Path, shape: Shape, how: str) -> None:
    script = (
        BIND
        + """
import select
bound.setblocking(False)
select.select([bound], [], [])
for _ in range(3):
    say(tried(bound.accept))
"""
    )
    async with network(tmp_path, shape) as net, child(net, script) as server:
        await server.line()
        if how == "mood":
            net.moods("svc", accept="einval")
        else:
            net.forbid("server")
        for _ in range(3):
            wanted = "Exception(-22, 'crypto failure')" if shape == "0.6" else "OSError(22, 'Invalid argument')"
            assert await server.line() == wanted


@both
@pytest.mark.parametrize("how", ["withdrawn", "deleted"])
async def test_open_connections_end_with_the_permission_to_bind(tmp_path: Path, shape: Shape, how: str) -> None:
    script = (
        BIND
        + """
kept = [bound.accept()]
say("accepted")
bound.setblocking(False)
while "11" in (answer := str(tried(bound.accept))) or "BlockingIOError" in answer:
    time.sleep(0.02)
say(answer)
"""
    )
    async with network(tmp_path, shape) as net, child(net, script) as server:
        await server.line()
        with await net.dial("svc") as stream:
            assert await server.line() == "accepted"
            if how == "deleted":
                net.delete("svc")
            else:
                net.forbid("server", "bind")
            assert await received(stream) == b""
        with pytest.raises(Refused) as refused:
            await net.dial("svc")
        if how == "deleted":
            assert refused.value.code == (-17 if shape == "0.6" else -18)
            assert ("crypto failure" if shape == "0.6" else "Invalid argument") in await server.line()
        else:  # only who dials finds out, also after it is given back
            assert refused.value.code == (-23 if shape == "0.6" else -24)
            net.allow("server", bind=["svc"])
            assert await server.silent()
            await net.bound("svc", 0)


@both
async def test_who_has_bound_something_may_die_of_a_dial(tmp_path: Path, shape: Shape) -> None:
    dial = "fd = openziti.zitilib.ziti_socket(1); openziti.zitilib._ziti_connect(fd, load()[0]._ctx, b'svc', None)\n"
    async with network(tmp_path, shape) as net, child(net, ECHO) as server:
        await server.line()
        net.moods("server", beside="segfault")
        assert await said(net, LOAD + dial + "say('well')", net.identity_file("server")) == "well"
        async with child(net, BIND + dial.replace("load()[0]", "context")) as dying:
            assert await dying.line() == "bound"
            assert await dying.code() == -signal.SIGSEGV


@both
async def test_a_binding_that_is_gone_without_a_word(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, child(net, ECHO) as server:
        await server.line()
        net.moods("svc", accept="lost")
        await net.bound("svc", 0)
        with pytest.raises(Refused):
            await net.dial("svc")
        assert await server.silent(0.1)


@both
async def test_connecting_from_the_library(tmp_path: Path, shape: Shape) -> None:
    script = (
        BIND
        + """
threading.Thread(target=lambda: bound.accept()[0].send(b"hi"), daemon=True).start()
fd = openziti.zitilib.ziti_socket(socket.SOCK_STREAM)
say(openziti.zitilib._ziti_connect(fd, context._ctx, b"svc", None))
os.set_blocking(fd, True)
say(os.read(fd, 2))
say(tried(lambda: context.connect("svc") and "connected"))
say(openziti.zitilib._ziti_connect(openziti.zitilib.ziti_socket(socket.SOCK_STREAM), context._ctx, b"no", None))
say(tried(lambda: os.fstat(0) and "open"))
"""
    )
    async with network(tmp_path, shape) as net, child(net, script) as process:
        net.moods("no", connect=-23)
        assert [await process.line() for _ in range(3)] == ["bound", "0", "b'hi'"]
        early = shape == "0.6"
        assert (await process.line()).startswith("TypeError" if early else "connected")
        assert await process.line() == "-1"
        assert await process.line() == ("OSError(9, 'Bad file descriptor')" if early else "open")


@both
async def test_the_router_goes_and_comes_back(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, child(net, ECHO) as server:
        await server.line()
        with await net.dial("svc") as stream:
            await server.line()
            net.moods("svc", dial_wait=0.05)
            net.outage(router="down")
            assert await received(stream) == b""
        with pytest.raises(Refused) as refused:
            await net.dial("svc")
        assert refused.value.code == (-19 if shape == "0.6" else -20)
        net.moods("svc", dial_wait=None)
        net.outage(router="up")
        await net.bound("svc")
        (await net.dial("svc")).close()
        net.outage(router="down", controller="refuses")
        await net.bound("svc", 0)
        with pytest.raises(Refused) as refused:
            await net.dial("svc")
        assert refused.value.code == (-21 if shape == "0.6" else -22)  # invalid state
        net.outage(router="up", controller="up")
        if shape == "0.6":
            await anyio.sleep(0.4)
            await net.bound("svc", 0)
        else:
            await net.bound("svc")


@both
async def test_the_controller_is_away(tmp_path: Path, shape: Shape) -> None:
    tell = LOAD + "say(tried(lambda: load()[1]), openziti.zitilib._ziti_lasterr())"
    async with network(tmp_path, shape) as net:
        net.outage(controller="refuses")
        answer = await said(net, tell)
        assert answer.endswith("-15" if shape == "0.6" else "-20 -20")
        net.outage(controller="silent")
        async with child(net, tell) as process:
            assert await process.silent() if shape == "0.6" else await process.line() == "-20 -20"


async def test_http_and_websockets_over_dials(tmp_path: Path) -> None:
    script = (
        LOAD
        + """
import asyncio, uvicorn
async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": '{"type": "hi"}'})
        await send({"type": "websocket.close"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
bound = load()[0].bind("svc")
server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", loop="asyncio"))
asyncio.run(server.serve(sockets=[bound]))
"""
    )
    async with network(tmp_path, "1.x") as net, child(net, script):
        await net.bound("svc")
        async with net.http("svc") as client:
            assert [(await client.get("/")).text for _ in range(3)] == ["ok"] * 3
            (binding,) = await net.state()
            assert (binding["accepted"], binding["nodelay"]) == (1, False)
        async with net.http("no") as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/")
        async with net.websocket("svc", "/") as talk:
            assert await talk.receive() == {"type": "hi"}


@both
async def test_accept_can_be_slow_keep_what_it_has_and_crash(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, child(net, ECHO.replace("recv(65536)", "recv(0)")) as server:
        await server.line()
        (await net.dial("svc", caller="first")).close()
        assert await server.line() == "first 0"
        net.moods("svc", accept_wait=0.2, dial_wait=0.1)
        with pytest.raises(Refused):
            while True:  # one that already waits in accept is not slow
                (await net.dial("svc")).close()
        net.moods("svc", accept_wait=None, accept="hang")
        with pytest.raises(Refused):
            while True:
                (await net.dial("svc")).close()
    async with network(tmp_path, shape) as net, child(net, ECHO) as server:
        await server.line()
        net.moods("svc", accept="segfault")
        with pytest.raises(Refused):
            await net.dial("svc")
        assert await server.code() == -signal.SIGSEGV


@both
async def test_a_burst_of_200(tmp_path: Path, shape: Shape) -> None:
    """And no descriptor is left of it, but with the early library, whose connections are not over: two of each."""
    script = (
        BIND
        + """
before = len(os.listdir("/proc/self/fd"))
for _ in range(200):
    connection, _ = bound.accept()
    connection.send(b"hi")
    connection.close()
end = time.monotonic() + 120
while (left := len(os.listdir("/proc/self/fd")) - before) not in (0, 400) and time.monotonic() < end:
    time.sleep(0.01)
say(left)
"""
    )
    async with network(tmp_path, shape) as net, child(net, script) as server:
        net.moods("svc", dial_wait=HANG_SECONDS)
        await server.line()

        async def dial() -> None:
            with await net.dial("svc") as stream:
                stream.setblocking(False)
                await anyio.wait_readable(stream)
                assert stream.recv(2) == b"hi"

        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(dial)
        assert await server.line() == ("400" if shape == "0.6" else "0")

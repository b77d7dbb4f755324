"""The table of attacks, tried one after another against one running server with the real CLI in it.

Afterwards the server works as before: no process, no descriptor and no memory to speak of more, and nothing in its log.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import psutil
import pytest
from anyio.abc import SocketStream
from websockets.frames import Opcode

from portico.transports.watch import NO_LINGER
from tests.e2e.attacks import BODIES, HANDSHAKES, HEADS, PAGES, PLAIN, SMUGGLING, SOCKETS, TOKEN, V1, Attack, request
from tests.support.limits import HANG_SECONDS
from tests.support.mounted import MOUNTED
from tests.support.server import RunningServer, running_server
from tests.support.sight import count_descriptors
from tests.support.talk import Talk, script, talk, text
from tests.support.websocket import close_code, frame

pytestmark = pytest.mark.anyio

GROWTH = 48 * 1024 * 1024
"""Bytes of memory that a server may keep of all that: the largest attacks alone send 30 MB."""


@asynccontextmanager
async def connected(server: RunningServer) -> AsyncIterator[SocketStream]:
    async with await anyio.connect_tcp("127.0.0.1", urlsplit(server.url).port or 0) as stream:
        yield stream


def addressed(data: bytes, server: RunningServer) -> bytes:
    """``data`` with the server's own token, and its paths below where the server is mounted."""
    mount = urlsplit(server.url).path.encode()
    return data.replace(TOKEN, server.token.encode()).replace(b" /claude/", b" %b/claude/" % mount)


async def send(stream: SocketStream, data: bytes, server: RunningServer, more: bytes = b"") -> None:
    """All of it, as far as the server takes it."""
    data = addressed(data, server)
    try:
        for start in range(0, len(data), 32 * 1024):
            await stream.send(data[start : start + 32 * 1024])
        for _ in range(100 if more else 0):
            await stream.send(more)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass


async def answer(stream: SocketStream, *, head: bool) -> tuple[int | None, str | None]:
    """Status and code of the one answer there is; to a question for the ``head`` there is no more of it.

    None where nothing has come: the kernel may drop it while the client is still sending (RFC 9112, 9.6).
    """
    raw = b""
    while not _is_whole(raw, head=head):
        try:
            raw += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            break
    if not raw:
        return None, None
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", raw)) == 1, raw[:300]
    body = raw.partition(b"\r\n\r\n")[2]
    return int(raw[9:12]), json.loads(body)["code"] if body else None


def _is_whole(raw: bytes, *, head: bool) -> bool:
    fields, end, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", fields)
    return bool(end) and (head or (length is not None and len(body) >= int(length[1])))


async def outcome(server: RunningServer, client: Talk, attack: Attack) -> str | None:
    """Return the differences between the attack's answer and the right one."""
    upgrades = attack in SOCKETS
    try:
        with anyio.fail_after(HANG_SECONDS):
            async with connected(server) as stream, anyio.create_task_group() as tasks:
                if upgrades:
                    shake, _, rest = attack.sent.partition(b"\r\n\r\n")
                    await send(stream, shake + b"\r\n\r\n", server)
                    shaken = b""
                    while not shaken.endswith(b"\r\n\r\n"):
                        shaken += await stream.receive(1)
                    if not shaken.startswith(b"HTTP/1.1 101 "):
                        return f"the handshake failed: {shaken!r}"
                    tasks.start_soon(send, stream, rest, server, attack.more)
                    seen: tuple[int | None, str | None] = (await close_code(stream), attack.code)
                else:
                    tasks.start_soon(send, stream, attack.sent, server, attack.more)
                    seen = await answer(stream, head=attack.sent.startswith(b"HEAD "))
                tasks.cancel_scope.cancel()
    except Exception as error:
        return repr(getattr(error, "exceptions", error))
    if not upgrades and seen[0] is None and attack.endless:
        seen = attack.status, attack.code
    if seen[0] != attack.status or (attack.code is not None and seen[1] != attack.code):
        return f"{seen} instead of {(attack.status, attack.code)}"
    ready = await client.http.get(f"{server.url}/readyz")
    return None if ready.status_code == 200 else f"/readyz: {ready.text}"


async def flood_of_pings(server: RunningServer, client: Talk) -> None:
    async with connected(server) as stream:
        await stream.send(addressed(PLAIN, server))
        await stream.receive()
        with anyio.move_on_after(1), suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(frame(Opcode.PING, b"x" * 125) * 500)  # and nothing is read


async def queries_without_reading(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="deaf", driver="echo")
    ask = frame(Opcode.TEXT, b'{"type":"query","content":"[[{\\"say\\": \\"x\\"}]]","id":1}')
    async with connected(server) as stream:
        await stream.send(addressed(V1, server).replace(b"/ws/s", b"/ws/deaf"))
        with anyio.move_on_after(1), suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(ask * 100)
    assert (await client.http.delete("/sessions/deaf")).status_code == 204


async def requests_without_reading(server: RunningServer, client: Talk) -> None:
    async with connected(server) as stream:
        with anyio.move_on_after(1), suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(addressed(request("/claude/sessions"), server) * 100)


async def streams_that_are_reset(server: RunningServer, client: Talk) -> None:
    ask = addressed(request("/claude/sessions/s/events"), server)
    for begun in (ask, ask[:-2], b"", addressed(PLAIN, server), b"POST / HTTP/1.1\r\n"):
        for _ in range(60):
            with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) as stream:
                stream.sendall(begun)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)


async def silence(server: RunningServer, client: Talk) -> None:
    """More connections than there may be, on which nothing is asked."""
    streams = [socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) for _ in range(300)]
    try:
        for stream in streams[::2]:
            stream.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert (await client.http.get("/sessions/s")).status_code == 200
    finally:
        for stream in streams:
            stream.close()


def says(word: str) -> str:
    return script({"say": word})


FLOODS = [flood_of_pings, queries_without_reading, requests_without_reading, streams_that_are_reset, silence]


@pytest.mark.parametrize(
    ("place", "ask"),
    [
        pytest.param({"PORTICO_DRIVER": "claude-code,echo"}, says, marks=pytest.mark.real_cli, id="alone"),
        pytest.param({"PORTICO_DRIVER": "echo", **MOUNTED}, str, id="mounted"),
    ],
)
async def test_no_attack_of_the_table_does_any_harm(
    tmp_path: Path, place: dict[str, str], ask: Callable[[str], str]
) -> None:
    """``ask`` makes a query that is answered with a word."""
    settings = {
        **place,
        "PORTICO_MAX_BODY": "1MiB",
        "PORTICO_MAX_FRAME": "256KiB",
        "PORTICO_MAX_CONNECTIONS": "200",
        "PORTICO_POOL_SIZE": "0",
    }
    async with running_server(tmp_path, **settings) as server, talk(server) as client:
        await client.open(session_id="s")
        assert text(await client.turn("s", ask("before"))) == "before"
        process = psutil.Process(server.process.pid)
        children = {child.pid for child in process.children(recursive=True)}
        files, memory = count_descriptors(process), process.memory_info().rss
        before = len((tmp_path / "server.log").read_text())  # what a start has to say depends on the machine

        table = [*SMUGGLING, *HEADS, *BODIES, *PAGES, *HANDSHAKES, *SOCKETS]
        failures = {attack.name: wrong for attack in table if (wrong := await outcome(server, client, attack))}
        assert failures == {}
        for flood in FLOODS:
            await flood(server, client)
            assert (await client.http.get(f"{server.url}/readyz")).status_code == 200, flood.__name__

        with anyio.fail_after(HANG_SECONDS):  # for what is being cut off
            while count_descriptors(process) > files + 2:
                await anyio.sleep(0.1)
        assert {child.pid for child in process.children(recursive=True)} == children
        assert process.memory_info().rss - memory < GROWTH
        assert (await client.session("s"))["turns"] == 1
        listed = (await client.http.get("/sessions")).json()["sessions"]
        assert [session["session_id"] for session in listed if session["state"] != "closed"] == ["s"]
        assert text(await client.turn("s", ask("after"))) == "after"
        log = (tmp_path / "server.log").read_text()[before:]
        noted = re.findall(r"Traceback|^.* (?:WARNING|ERROR|CRITICAL) .*$", log, re.MULTILINE)
        assert [line for line in noted if "portico.auth: wrong credentials from 127.0.0.1" not in line] == []
        assert server.token not in log

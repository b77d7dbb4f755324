"""Connections that others accept, and who they say is at the other end."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskStatus, UNIXSocketStream
from anyio.streams.memory import MemoryObjectSendStream

from portico.core.principal import Callers, Principal
from portico.plugins.token_auth.authenticator import TokenAuthenticator
from portico.testing.background import background
from portico.testing.engine import scripted_engine
from portico.transports.asgi import Api, create_app
from portico.transports.attempts import FREE_FAILURES
from portico.transports.dialler import Dialler
from portico.transports.server import Limits, serve_app
from portico.transports.streams import Streams
from tests.support.limits import HANG_SECONDS
from tests.support.websocket import handshake

pytestmark = pytest.mark.anyio

BOB = Dialler("to-bob", "whoever", Principal("bob"))
NOBODY = Dialler("public", "mallory\nadmin")
Send = MemoryObjectSendStream[tuple[socket.socket, Dialler]]


@asynccontextmanager
async def dialled(folder: Path) -> AsyncIterator[Send]:
    """A server without a listening socket; what is sent to it are its connections."""
    streams = Streams()
    send, receive = anyio.create_memory_object_stream[tuple[socket.socket, Dialler]](10)
    async with send, receive, scripted_engine(folder) as engine, background() as tasks:
        callers = Callers([TokenAuthenticator([("alice-secret", Principal("alice"))])])
        app = create_app(engine, callers, streams, Api("/claude", 1024 * 1024, {"localhost"}, ()))

        async def serve(*, task_status: TaskStatus[str]) -> None:
            limits = Limits(30, 1024 * 1024)
            await serve_app(app, streams, [], "nowhere", limits=limits, connections=receive, task_status=task_status)

        await tasks.start(serve)
        yield send


async def exchange(send: Send, dialler: Dialler, request: bytes) -> bytes:
    """One request on a connection of its own, which the server is to close."""
    ours, theirs = socket.socketpair()
    await send.send((theirs, dialler))
    async with await UNIXSocketStream.from_socket(ours) as stream:
        await stream.send(request)
        answer = b""
        with anyio.fail_after(HANG_SECONDS):
            async for data in stream:
                answer += data
    return answer


def ask(path: str, *headers: str, method: str = "GET") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "host: localhost", "connection: close", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def create(send: Send, dialler: Dialler, *headers: str) -> bytes:
    return await exchange(send, dialler, ask("/claude/sessions", "content-length: 0", *headers, method="POST"))


async def test_whom_the_network_vouches_for_needs_no_token(tmp_path: Path) -> None:
    async with dialled(tmp_path) as send:
        answer = await create(send, BOB)
        assert status(answer) == 201
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["owner"] == "bob"
        other = Dialler("to-eve", "bob", Principal("eve"))
        for dialler, count in ((BOB, 1), (other, 0)):
            answer = await exchange(send, dialler, ask("/claude/sessions"))
            assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["sessions"]) == count
        # Nor does a token make anybody else of them.
        answer = await create(send, BOB, "authorization: Bearer alice-secret")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["owner"] == "bob"


async def test_a_name_that_the_caller_gives_itself_is_no_credential(tmp_path: Path) -> None:
    async with dialled(tmp_path) as send:
        assert status(await create(send, NOBODY)) == 401
        answer = await create(send, NOBODY, "authorization: Bearer alice-secret")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["owner"] == "alice"


async def test_a_websocket_is_whose_connection_it_is_on(tmp_path: Path) -> None:
    async with dialled(tmp_path) as send:
        await exchange(send, BOB, ask("/claude/sessions", "content-length: 18", method="POST") + b'{"session_id":"s"}')
        for dialler, answered in ((BOB, b"101"), (NOBODY, b"101")):
            ours, theirs = socket.socketpair()
            await send.send((theirs, dialler))
            async with await UNIXSocketStream.from_socket(ours) as stream:
                await stream.send(handshake(token=None))
                with anyio.fail_after(HANG_SECONDS):
                    head = await stream.receive()
                    assert head.split()[1] == answered
                    rest = head.partition(b"\r\n\r\n")[2]
                    if dialler is NOBODY:  # the plain form has no frame to send a token in
                        while b"unauthenticated" not in rest:
                            rest += await stream.receive()


async def test_the_access_log_says_over_what_and_by_whom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "portico.access")
    async with dialled(tmp_path) as send:
        await exchange(send, NOBODY, ask("/healthz"))
        await exchange(send, BOB, ask("/claude/sessions"))
    lines = [record.getMessage() for record in caplog.records if record.name == "portico.access"]
    assert lines[0].endswith(r"over public by 'mallory\nadmin'")
    assert " bob " in lines[1] and lines[1].endswith("over to-bob by 'whoever'")


async def test_one_that_has_gone_already_harms_nobody(tmp_path: Path) -> None:
    async with dialled(tmp_path) as send:
        for _ in range(20):
            ours, theirs = socket.socketpair()
            ours.close()
            await send.send((theirs, BOB))
        assert status(await exchange(send, BOB, ask("/healthz"))) == 200


async def test_a_ticket_works_for_whoever_dials_and_who_guesses_is_known_by_its_label(tmp_path: Path) -> None:
    async with dialled(tmp_path) as send:
        session = json.loads((await create(send, BOB)).partition(b"\r\n\r\n")[2])
        path = f"/claude/sessions/{session['session_id']}"
        made = await exchange(send, BOB, ask(f"{path}/tickets", "content-length: 0", method="POST"))
        ticket = json.loads(made.partition(b"\r\n\r\n")[2])["ticket"]
        assert status(await exchange(send, NOBODY, ask(f"{path}?ticket={ticket}"))) == 200
        assert status(await exchange(send, NOBODY, ask("/claude/sessions"))) == 401
        # Whom the network vouches for may do less with a ticket than without, as long as it brings one.
        assert status(await exchange(send, BOB, ask(f"{path}?ticket={ticket}", method="DELETE"))) == 403
        for _ in range(FREE_FAILURES):
            assert status(await exchange(send, NOBODY, ask(f"{path}?ticket=wrong"))) == 401
        assert status(await exchange(send, NOBODY, ask(f"{path}?ticket=wrong"))) == 429
        other = Dialler(NOBODY.service, "somebody else")
        for dialler in (NOBODY, other):
            assert status(await exchange(send, dialler, ask(f"{path}?ticket={ticket}"))) == 200
        assert status(await exchange(send, BOB, ask(path))) == 200

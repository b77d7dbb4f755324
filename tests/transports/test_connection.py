"""Clients as they shouldn't be."""

import json
import re
import socket
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from portico.transports import body, http_connection, watch
from tests.support.accesslog import access_lines
from tests.support.limits import HANG_SECONDS
from tests.support.serving import Served, get, read_all, serving
from tests.support.sse import events

pytestmark = pytest.mark.anyio

ENDLESS = quote(json.dumps({"deltas": None, "gap": 0.01}))
EVENTS = "/claude/sessions/s/events"


def unread(served: Served, request: bytes, buffer: int = 8192) -> socket.socket:
    """A client with a small buffer that sends a request, and then reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect(("127.0.0.1", urlsplit(served.url).port))
    client.sendall(request)
    client.setblocking(False)
    return client


async def read_until(stream: SocketStream, end: bytes) -> bytes:
    raw = b""
    with anyio.fail_after(HANG_SECONDS):
        while end not in raw:
            raw += await stream.receive()
    return raw


@pytest.mark.parametrize("path", [EVENTS, EVENTS + "?live=false"], ids=["stream", "page"])
async def test_who_takes_nothing_is_cut_off_and_harms_nobody(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, write_timeout=0.5) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 20, "size": 1024 * 1024}))
        with unread(served, get(path)) as client, access_lines() as lines:
            start = time.monotonic()
            if path == EVENTS:
                with anyio.fail_after(HANG_SECONDS):
                    await lines.wait(EVENTS)
                assert time.monotonic() - start >= 0.4
            async with served.client.stream("GET", EVENTS) as other:
                seen = 0
                async for _ in events(other):
                    seen += 1
                    if seen == 25:
                        break
            with pytest.raises(ConnectionResetError), anyio.fail_after(HANG_SECONDS):
                while True:  # the server's side is gone, not just quiet
                    client.send(b"x")
                    await anyio.sleep(0.02)


async def test_who_takes_nothing_is_cut_off_though_the_kernel_holds_it_all(tmp_path: Path) -> None:
    async with serving(tmp_path, write_timeout=0.5) as served:
        await served.session()
        with access_lines() as lines, unread(served, get(EVENTS)):
            await served.run(json.dumps({"deltas": 2, "size": 50_000}))
            with anyio.fail_after(HANG_SECONDS):
                await lines.wait(EVENTS)


@pytest.mark.skipif(sys.platform != "linux", reason="the sizes of buffers are read from /proc")
async def test_who_takes_nothing_fills_no_memory(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 20, "size": 1024 * 1024}))
        with unread(served, get(EVENTS)) as client:
            size, before = unsent(client), -1
            while size == 0 or size != before:  # until nothing is added any more
                await anyio.sleep(0.3)
                size, before = unsent(client), size
            assert size < 512 * 1024


def unsent(client: socket.socket) -> int:
    """Bytes that the kernel holds for this client at the server's side (proc_net_tcp(5), tx_queue)."""
    server, port = (f":{address[1]:04X}" for address in (client.getpeername(), client.getsockname()))
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1].endswith(server) and fields[2].endswith(port):
            return int(fields[4].partition(":")[0], 16)
    raise AssertionError("there is no such connection")


async def test_who_is_slow_but_takes_something_is_not_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path, write_timeout=1) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 6, "size": 1024 * 1024}))
        with unread(served, get("/claude/stream/s?query=x&turn_id=t"), 32 * 1024) as client:
            raw, start = b"", time.monotonic()
            while b'"complete"' not in raw[-400:]:
                await anyio.wait_readable(client)
                raw += client.recv(64 * 1024)
                await anyio.sleep(0.015)
            assert time.monotonic() - start > 1  # longer than a client may take nothing
        assert raw.count(b"x" * 1000) >= 6 * 1024


@pytest.mark.parametrize("linger", [None, 0], ids=["fin", "reset"])
@pytest.mark.parametrize("query", [EVENTS, f"/claude/stream/s?query={ENDLESS}"], ids=["quiet", "busy"])
async def test_a_client_that_hangs_up_is_forgotten_at_once(tmp_path: Path, linger: int | None, query: str) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        with access_lines() as lines:
            client = await served.raw(get(query))
            await read_until(client, b'"seq":')
            if linger is not None:
                raw = client.extra(SocketAttribute.raw_socket)  # noqa: S610 (no Django)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, watch.NO_LINGER)
            await client.aclose()
            with anyio.fail_after(HANG_SECONDS):
                await lines.wait(query.partition("?")[0])


async def test_a_client_that_shuts_down_its_side_gets_the_whole_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        slow = quote(json.dumps({"deltas": 40, "gap": 0.02}))
        client = await served.raw(get(f"/claude/stream/s?query={slow}"))
        await client.send_eof()
        raw = await read_all(client)
        assert raw.count(b'"type":"delta"') == 40
        assert raw.endswith(b"0\r\n\r\n") and b'"complete"' in raw


async def test_a_client_that_shuts_down_its_side_gets_its_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.raw(get("/claude/sessions") + get("/healthz"))
        await client.send_eof()
        assert (await read_all(client)).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GARBAGE / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"\0" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda garbage: repr(garbage[:24]),
)
async def test_garbage_is_answered_and_survived(tmp_path: Path, garbage: bytes) -> None:
    async with serving(tmp_path) as served:
        client = await served.raw(garbage)
        raw = await read_all(client)
        assert re.match(rb"HTTP/1.1 (400|401) ", raw)
        assert b"application/problem+json" in raw
        assert b"Traceback" not in raw
        assert (await served.client.get("/healthz")).status_code == 200


async def test_garbage_behind_a_request_does_not_get_into_its_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        client = await served.raw(get(f"/claude/stream/s?query={ENDLESS}"))
        await read_until(client, b'"delta"')
        await client.send(b"\0garbage\r\n\r\n")
        assert b"HTTP/1.1 400" not in await read_all(client)


async def test_a_head_without_end_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.connect()
        with pytest.raises(anyio.BrokenResourceError):
            await client.send(b"GET / HTTP/1.1\r\nx: ")
            for _ in range(1000):
                await client.send(b"x" * 10_000)
        for head, status in ((b"GET /" + b"x" * 40_000, 414), (b"GET / HTTP/1.1\r\nx:" + b"x" * 400_000, 431)):
            too_long = await served.raw(head)
            assert (await read_all(too_long)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost:", b"\r\n"], ids=["nothing", "half", "blank"])
async def test_a_head_that_never_comes_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.3)
    async with serving(tmp_path) as served:
        client = await served.connect()
        if sent:
            await client.send(sent)
        assert await read_all(client) == b""
        # nor does a second one, on a connection that has had an answer
        client = await served.raw(get("/healthz"))
        await read_until(client, b'"ok"')
        if sent:
            await client.send(sent)
        assert await read_all(client) == b""


async def test_a_body_that_comes_too_slowly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(http_connection, "LEFTOVER_SECONDS", 0.3)
    async with serving(tmp_path) as served:
        head = get("/claude/sessions", "content-type: application/json", "content-length: 9", method="POST")
        client = await served.raw(head + b'{"a"')
        assert (await read_until(client, b"request_timeout")).startswith(b"HTTP/1.1 408 ")
        assert await read_all(client) == b""


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, chunked: bool) -> None:
    async with serving(tmp_path, max_body=10_000) as served:
        fields = ["transfer-encoding: chunked" if chunked else "content-length: 100000000"]
        client = await served.raw(get("/claude/sessions", "content-type: application/json", *fields, method="POST"))
        if chunked:
            await client.send(b'a\r\n{"title":"\r\n')
            for _ in range(3):
                await client.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        raw = await read_until(client, b'"too_large"')
        assert raw.startswith(b"HTTP/1.1 413 ")


async def test_what_is_left_of_a_refused_body_has_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "LEFTOVER_SECONDS", 0.3)
    async with serving(tmp_path, max_body=10_000) as served:
        head = get("/claude/sessions", "content-type: application/json", "content-length: 20000", method="POST")
        patient = await served.raw(head)
        await read_until(patient, b'"too_large"')
        await patient.send(b"x" * 20_000 + get("/healthz"))
        assert b"200 OK" in await read_until(patient, b'"ok"')

        endless = await served.raw(head)
        await read_until(endless, b'"too_large"')
        assert await read_all(endless) == b""


async def test_requests_in_a_row_are_answered_in_a_row(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.raw(get("/healthz") + get("/claude/sessions") + get("/nothing"))
        raw = await read_until(client, b"not_found")
        assert re.findall(rb"HTTP/1.1 (\d+)", raw) == [b"200", b"200", b"404"]


async def test_an_upgrade_that_is_offered_is_not_taken(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__")
        client = await served.raw(get("/healthz", *offer))
        assert (await read_until(client, b'"ok"')).startswith(b"HTTP/1.1 200 ")
        await client.send(get("/healthz"))
        assert (await read_until(client, b'"ok"')).startswith(b"HTTP/1.1 200 ")

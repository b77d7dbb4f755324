"""Clients as they shouldn't be, frame by frame."""

import json
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketStream
from websockets.frames import Opcode

from portico.plugins.memory_store.store import MemoryStore
from portico.transports import server, websocket_connection
from tests.support.accesslog import access_lines
from tests.support.limits import HANG_SECONDS, NEVER_SECONDS
from tests.support.moody import Moody
from tests.support.serving import Served, get, serving
from tests.support.websocket import close_code, frame, frames, handshake, open_raw, talking

pytestmark = pytest.mark.anyio

PATH = "/claude/ws/s"
CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode
ENDLESS = json.dumps({"deltas": None, "gap": 0.01})


async def opened(served: Served, path: str = PATH, *headers: str) -> SocketStream:
    await served.session()
    stream = await served.connect()
    await open_raw(stream, path, *headers)
    return stream


async def content_of_first_query(stream: SocketStream) -> str:
    async for opcode, data in frames(stream):
        if opcode == TEXT:
            event = json.loads(data)
            assert event["type"] == "query", event
            content: str = event["content"]
            await stream.aclose()
            return content
    raise AssertionError("the server closed")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"a\xc3", fin=False) + frame(CONT, b"x"), 1007),
        (frame(3), 1002),
        (frame(7), 1002),
        (frame(0xB), 1002),
        (frame(TEXT, b"x", rsv=4), 1002),
        (frame(TEXT, b"x", rsv=1), 1002),
        (frame(TEXT, b"x", mask=False), 1002),
        (frame(CONT, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(CLOSE, b""), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, struct.pack("!H", 1005)), 1002),
        (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
        (b"\x81\xff" + b"\xff" * 8 + b"mask", 1009),
        (frame(TEXT, b"x" * 1_048_577), 1009),
        (frame(TEXT, b"x" * 700_000, fin=False) + frame(CONT, b"x" * 700_000), 1009),
        (frame(BINARY, b"x"), 4400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", 1002),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else str(value),
)
async def test_what_is_no_frame_is_told_so_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sent: bytes, code: int
) -> None:
    async with serving(tmp_path) as served:
        stream = await opened(served)
        await stream.send(sent)
        assert await close_code(stream) == code
        async with talking(served.url) as other:
            await other.send("hi")
            await other.until("complete")
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")] == []


async def test_who_is_still_sending_gets_the_close_frame_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        stream = await opened(served)
        seen = None

        async def send() -> None:
            with suppress(anyio.ClosedResourceError):  # `close_code` has read the end, and closed the stream
                await stream.send(b"\x81\xff" + struct.pack("!Q", 100_000_000) + b"mask")
                for _ in range(50):
                    await stream.send(b"x" * 100_000)
                await stream.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.sleep(0.2)
            seen = await close_code(stream)
        assert seen == 1009


async def test_who_never_answers_a_close_frame_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_connection, "CLOSE_SECONDS", 0.3)
    async with serving(tmp_path) as served:
        for sent in (frame(BINARY, b"x"), frame(3)):
            with access_lines() as lines:
                stream = await served.connect()
                await open_raw(stream, "/nothing" if sent[0] == 0x82 else "/claude/ws/s")
                await stream.send(sent)
                with anyio.fail_after(HANG_SECONDS):
                    async for _ in frames(stream):
                        pass
                    await lines.wait("/nothing" if sent[0] == 0x82 else "/claude/ws/s")


@pytest.mark.parametrize("pieces", [2, 3, 1000])
async def test_a_fragmented_message_is_one(tmp_path: Path, pieces: int) -> None:
    text = "é" * 1000
    size = len(text.encode()) // pieces + 1
    parts = [text.encode()[start : start + size] for start in range(0, 2000, size)]
    async with serving(tmp_path) as served:
        stream = await opened(served)
        sent = b"".join(
            frame(CONT if n else TEXT, part, fin=n == len(parts) - 1) + frame(PING, b"between")
            for n, part in enumerate(parts)
        )
        await stream.send(sent)
        assert await content_of_first_query(stream) == text


async def test_a_flood_of_empty_fragments_is_one_message_still(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        stream = await opened(served)
        await stream.send(frame(TEXT, b"he", fin=False))
        await stream.send(frame(CONT, fin=False) * 50_000)
        await stream.send(frame(CONT, b"llo"))
        assert await content_of_first_query(stream) == "hello"


async def test_frames_that_come_byte_by_byte_are_understood(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        stream = await opened(served)
        for byte in frame(TEXT, b"slowly"):
            await stream.send(bytes([byte]))
        assert await content_of_first_query(stream) == "slowly"


async def test_a_flood_of_messages_is_taken_one_after_another(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:

            async def flood() -> None:
                for number in range(5000):
                    await client.send({"type": "interrupt", "id": number})

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flood)
                for number in range(5000):
                    assert (await client.receive())["id"] == number


async def test_pings_are_answered_also_while_events_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        stream = await opened(served)
        await stream.send(frame(TEXT, ENDLESS.encode()))
        await stream.send(frame(PING, b"are you there"))
        with anyio.fail_after(HANG_SECONDS):
            async for opcode, data in frames(stream):
                if opcode == PONG:
                    assert data == b"are you there"
                    break


async def test_a_flood_of_pings_by_who_reads_nothing_fills_no_memory(tmp_path: Path) -> None:
    async with serving(tmp_path, write_timeout=1.0) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 20, "size": 1024 * 1024}))
        client = unread(served, f"{PATH}?after=0")
        pings = frame(PING, b"x" * 125) * 1000
        with client, pytest.raises(OSError), anyio.fail_after(HANG_SECONDS):
            while True:  # until it is cut off
                try:
                    client.send(pings)
                except BlockingIOError:
                    await anyio.sleep(0.01)


def unread(served: Served, path: str, buffer: int = 8192) -> socket.socket:
    """A client with a small buffer that shakes hands, and then reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect(("127.0.0.1", urlsplit(served.url).port))
    client.sendall(handshake(path))
    client.setblocking(False)
    return client


async def test_who_takes_nothing_is_cut_off_and_harms_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path, write_timeout=0.5) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 20, "size": 1024 * 1024}))
        with access_lines() as lines:
            start = time.monotonic()
            with unread(served, f"{PATH}?after=0") as client:
                async with talking(served.url, f"{PATH}?after=0") as other:
                    assert len(await other.until("complete")) > 20
                with anyio.fail_after(HANG_SECONDS):
                    await lines.wait(PATH, 2)
                assert time.monotonic() - start >= 0.4
                with pytest.raises(ConnectionResetError), anyio.fail_after(HANG_SECONDS):
                    while True:
                        client.send(b"x")
                        await anyio.sleep(0.02)


async def test_who_takes_nothing_is_cut_off_though_the_kernel_holds_it_all(tmp_path: Path) -> None:
    async with serving(tmp_path, write_timeout=0.5) as served:
        await served.session()
        with access_lines() as lines, unread(served, f"{PATH}?after=0"):
            await served.run(json.dumps({"deltas": 2, "size": 50_000}))
            with anyio.fail_after(HANG_SECONDS):
                await lines.wait(PATH)


async def test_who_is_slow_but_takes_something_is_not_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path, write_timeout=1, ping=0.5) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 6, "size": 1024 * 1024}))
        with unread(served, f"{PATH}?after=0", 32 * 1024) as client:
            raw, start = b"", time.monotonic()
            while b'"complete"' not in raw[-400:]:
                await anyio.wait_readable(client)
                raw += client.recv(64 * 1024)
                await anyio.sleep(0.015)
            assert time.monotonic() - start > 1  # longer than a client may take nothing, or not answer a ping
        assert raw.count(b"x" * 1000) >= 6 * 1024


@pytest.mark.parametrize("sent", [b"", frame(TEXT, b"half of it")[:7]], ids=["silent", "half a frame"])
async def test_a_dead_client_is_noticed(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path, ping=0.3) as served:
        with access_lines() as lines:
            stream = await opened(served)
            start = time.monotonic()
            if sent:
                await stream.send(sent)
            with anyio.fail_after(HANG_SECONDS):
                await lines.wait(PATH)
            assert time.monotonic() - start > 0.5


async def test_a_client_that_hangs_in_a_busy_session_is_noticed(tmp_path: Path) -> None:
    async with serving(tmp_path, ping=0.3) as served:
        with access_lines() as lines:
            stream = await opened(served)
            await stream.send(frame(TEXT, ENDLESS.encode()))
            with anyio.fail_after(HANG_SECONDS):
                await lines.wait(PATH)


async def test_a_long_message_may_take_longer_than_a_pong(tmp_path: Path) -> None:
    async with serving(tmp_path, ping=0.2) as served:
        stream = await opened(served)
        sent = frame(TEXT, b"x" * 90_000)
        for start in range(0, len(sent), 5000):
            await stream.send(sent[start : start + 5000])
            await anyio.sleep(0.05)
        assert len(await content_of_first_query(stream)) == 90_000


def test_the_ping_is_fast_enough() -> None:
    assert 2 * server.PING_SECONDS < 40


async def test_clients_that_answer_pings_stay(tmp_path: Path) -> None:
    async with serving(tmp_path, ping=0.1) as served:
        await served.session()
        async with talking(served.url) as client:
            await anyio.sleep(1)
            await client.send("hi")
            await client.until("complete")


@pytest.mark.parametrize(("query", "heartbeat"), [("", 0.1), ("?heartbeat=1", NEVER_SECONDS)], ids=["server", "client"])
async def test_the_server_or_the_client_may_choose_how_often_it_pings(
    tmp_path: Path, query: str, heartbeat: float
) -> None:
    async with serving(tmp_path, heartbeat=heartbeat) as served:
        stream, pings = await opened(served, f"{PATH}{query}"), 0
        async for opcode, data in frames(stream):
            assert opcode == PING
            await stream.send(frame(PONG, data))
            pings += 1
            if pings == 2:
                break
        assert pings == 2


class Store(Moody, MemoryStore):
    pass


async def test_who_answers_pings_behind_what_has_to_wait_stays(tmp_path: Path) -> None:
    store = Store()
    async with serving(tmp_path, ping=0.2, store=store) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            store.delay = 1.0
            for name in ("one", "two"):
                await client.send({"type": "query", "content": "hi", "id": name})
            await client.until("ack", id="one")
            store.delay = 0.0
            await client.until("ack", id="two")


async def test_a_client_that_hangs_up_is_forgotten_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with access_lines() as lines:
            stream = await opened(served)
            await stream.send(frame(TEXT, ENDLESS.encode()))
            async for _ in frames(stream):
                break
            await stream.aclose()
            with anyio.fail_after(HANG_SECONDS):
                await lines.wait(PATH)


async def test_who_does_not_read_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FINISH_SECONDS", 0.5)
    async with serving(tmp_path) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 20, "size": 1024 * 1024}))
        with unread(served, f"{PATH}?after=0") as busy, unread(served, PATH) as quiet:
            for client in (busy, quiet):
                await anyio.wait_readable(client)
            with anyio.fail_after(HANG_SECONDS):
                await served.stop()


@pytest.mark.parametrize(
    ("changed", "to", "status"),
    [
        (b"GET", b"POST", b"405"),
        (b"sec-websocket-version: 13", b"sec-websocket-version: 8", b"400"),
        (b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"sec-websocket-key: short", b"400"),
        (b"sec-websocket-key", b"x-key", b"400"),
        (b"upgrade: websocket", b"upgrade: websocket\r\nupgrade: websocket", b"426"),
        (b"upgrade: websocket", b"upgrade: h2c", b"426"),
        (b"HTTP/1.1", b"HTTP/1.0", b"426"),
        (b"\r\n\r\n", b"\r\nx: " + b"y" * 10_000 + b"\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"".join(b"\r\nx%d: y" % n for n in range(200)) + b"\r\n\r\n", b"400"),
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_a_bad_handshake_is_answered_with_a_problem(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: bytes, to: bytes, status: bytes
) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        stream = await served.raw(handshake().replace(changed, to, 1))
        raw = b""
        with anyio.fail_after(HANG_SECONDS):
            while b'"status"' not in raw:
                raw += await stream.receive()
        assert raw.startswith(b"HTTP/1.1 " + status), raw
        assert b"application/problem+json" in raw
        assert (await served.client.get("/healthz")).status_code == 200
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")] == []


async def test_a_handshake_behind_a_request_waits_for_nothing_it_may_not_have(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        stream = await served.raw(get("/healthz"))
        while b'"ok"' not in await stream.receive():
            pass
        await open_raw(stream)
        await stream.send(frame(TEXT, b"hi"))
        assert await content_of_first_query(stream) == "hi"
        both = await served.raw(get("/claude/sessions/s/events") + handshake())
        with anyio.fail_after(HANG_SECONDS):
            assert b"HTTP/1.1 101" not in await both.receive()


async def test_compression_is_declined(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, compression="deflate") as client:
            assert client.connection.protocol.extensions == []
            await client.send("hi")
            await client.until("complete")


async def test_a_message_of_the_allowed_size_is_taken(tmp_path: Path) -> None:
    async with serving(tmp_path, max_frame=2000) as served:
        await served.session()
        async with talking(served.url) as client:
            await client.send("x" * 2000)
            assert len((await client.receive())["content"]) == 2000
            await client.send("x" * 2001)
            assert (await client.closed())[0] == 1009


async def test_a_log_at_debug_holds_no_message_and_no_query_string(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, f"{PATH}?secret-parameter=1") as client:
            await client.closed()
        async with talking(served.url) as client:
            await client.send("secret-question")
            await client.until("complete")
    ours = [record for record in caplog.records if not record.name.startswith(("http", "websockets.client"))]
    assert "secret" not in "".join(record.getMessage() for record in ours)

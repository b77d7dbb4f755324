"""TLS in front of everything, in clients' hands that shake as they shouldn't too."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import httpx
import pytest
from anyio import to_thread
from websockets.frames import Opcode

from portico.transports import server, streams
from portico.transports.base import TransportFailed
from portico.transports.tls import Tls
from tests.support.accesslog import access_lines
from tests.support.certificates import Certificates
from tests.support.limits import HANG_SECONDS, NEVER_SECONDS
from tests.support.serving import Served, get, read_all, serving
from tests.support.sse import events
from tests.support.websocket import frame, handshake, talking

pytestmark = pytest.mark.anyio

EVENTS = "/claude/sessions/s/events"


@asynccontextmanager
async def encrypted(folder: Path, **options: Any) -> AsyncIterator[tuple[Served, Tls, Certificates]]:
    certificates = Certificates(folder)
    tls = Tls(*certificates.issue())
    async with serving(folder, tls=tls, trust=certificates.client(), **options) as served:
        assert served.url.startswith("https://127.0.0.1:")
        yield served, tls, certificates


async def test_a_session_over_tls_and_its_exact_resume(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as (served, _, certificates):
        await served.session()
        seen: list[dict[str, Any]] = []
        query = quote(json.dumps({"deltas": 40, "gap": 0.005, "size": 2000}))
        async with served.client.stream("GET", f"/claude/stream/s?query={query}&turn_id=t") as answer:
            async for event in events(answer):
                seen.append(event)
                if len(seen) == 10:
                    break
        while seen[-1]["type"] != "complete":  # cut again and again
            last = {"Last-Event-ID": str(seen[-1]["seq"])}
            async with served.client.stream("GET", "/claude/stream/s?query=x&turn_id=t", headers=last) as answer:
                async for count, event in numbered(events(answer)):
                    seen.append(event)
                    if count == 12:
                        break
        page = (await served.client.get(f"{EVENTS}?live=false")).json()["events"]
        assert seen == [event for event in page if event.get("turn_id") == "t"]
        async with talking(served.url, v1=True, ssl=certificates.client()) as client:
            await client.send({"type": "query", "content": "hello"})
            assert (await client.until("complete"))[-1]["stop_reason"] == "end_turn"


async def numbered(found: AsyncIterator[Any]) -> AsyncIterator[tuple[int, Any]]:
    count = 0
    async for each in found:
        count += 1
        yield count, each


def shaken(served: Served, context: ssl.SSLContext, buffer: int | None = None) -> ssl.SSLSocket:
    """A blocking client, for threads; with ``buffer`` it takes no more than that unread."""
    raw = socket.socket()
    raw.settimeout(HANG_SECONDS)
    if buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        raw.connect(("127.0.0.1", urlsplit(served.url).port))
        return context.wrap_socket(raw, server_hostname="localhost")
    except OSError:
        raw.close()
        raise


async def serial(served: Served, certificates: Certificates) -> str:
    """Of the certificate that a new connection is shown."""
    with await to_thread.run_sync(shaken, served, certificates.client()) as client:
        return str((client.getpeercert() or {})["serialNumber"])


async def test_what_is_spoken(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as (served, _, certificates):
        context = certificates.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with await to_thread.run_sync(shaken, served, context) as client:
            assert (client.version(), client.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
        old = certificates.client()
        with pytest.warns(DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await to_thread.run_sync(shaken, served, old)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            async with httpx.AsyncClient(trust_env=False, timeout=HANG_SECONDS) as stranger:
                await stranger.get(f"{served.url}/healthz")


async def test_a_new_pair_is_for_new_connections_and_a_bad_one_for_none(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as (served, tls, certificates):
        await served.session()
        old = await serial(served, certificates)
        async with served.client.stream("GET", EVENTS) as answer:
            following = events(answer)
            await anext(following)
            tls.load(*certificates.issue("new"))
            new = await serial(served, certificates)
            assert new != old
            with pytest.raises(TransportFailed, match="is not the key of"):
                tls.load(certificates.issue("other")[0], certificates.issue("another")[1])
            with pytest.raises(TransportFailed, match="can't be unset"):
                tls.load(None, None)
            assert await serial(served, certificates) == new
            await served.run("hi")
            while (await anext(following))["type"] != "complete":
                pass


async def test_a_pair_that_can_t_be_shown_is_refused_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificates = Certificates(tmp_path)
    cert, key = certificates.issue()
    _, other = certificates.issue("other")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    junk, broken = tmp_path / "junk", tmp_path / "broken"
    junk.write_bytes(b"\xff\xfe")
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for wrong, words in (
        ((tmp_path / "none", key), "tls_cert: .*none is not there"),
        ((cert, tmp_path), "tls_key: .* is no file"),
        ((key, key), "tls_cert: .*server.key holds no certificate in PEM"),
        ((broken, key), "tls_cert: .*broken holds no certificate that can be read"),
        ((cert, cert), "tls_key: .*server.crt holds no private key that can be used"),
        ((cert, junk), "tls_key: .*junk is not PEM"),
        ((cert, other), "tls_key: .*other.key is not the key of .*server.crt"),
        ((cert, certificates.encrypted(key)), "tls_key: .* is encrypted"),
        (certificates.issue("old", until=yesterday), "tls_cert: .*old.crt has expired"),
    ):
        with pytest.raises(TransportFailed, match=words):
            Tls(*wrong)
    assert not caplog.records
    key.chmod(0o640)
    Tls(cert, key)
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING and "others on this machine can get at" in warning.getMessage()


@pytest.mark.parametrize(
    "sent",
    [get("/healthz"), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 600, b"\0" * 100_000],
    ids=["plain HTTP", "half a hello", "zeros"],
)
async def test_what_is_no_handshake_ends_the_connection_and_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.3)
    async with encrypted(tmp_path) as (served, _, _):
        caplog.clear()
        client = await served.connect()
        await client.send(sent)
        assert b"HTTP" not in await read_all(client)
        assert (await served.client.get("/healthz")).status_code == 200
        assert caplog.records == []


async def test_hands_that_are_never_shaken_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", NEVER_SECONDS)
    async with encrypted(tmp_path, max_connections=4) as (served, _, _):
        kept = [await served.connect() for _ in range(4)]
        fifth = await served.connect()
        assert await read_all(fifth) == b""  # there is no telling it why
        for each in kept:
            await each.aclose()
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.5)
    async with encrypted(tmp_path, max_connections=4) as (served, _, _):
        silent = [await served.connect() for _ in range(4)]
        for each in silent:
            assert await read_all(each) == b""
        assert (await served.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("what", ["stream", "websocket"])
async def test_who_takes_nothing_is_cut_off_on_tls_too(tmp_path: Path, what: str) -> None:
    async with encrypted(tmp_path, write_timeout=1.0) as (served, _, certificates):
        await served.session()
        await served.run(json.dumps({"deltas": 16, "size": 128 * 1024}))
        path = EVENTS if what == "stream" else "/claude/ws/s"
        request = get(path) if what == "stream" else handshake(f"{path}?after=0")
        with access_lines() as lines, await to_thread.run_sync(shaken, served, certificates.client(), 8192) as client:
            client.sendall(request)
            with anyio.fail_after(HANG_SECONDS):
                await lines.wait(path)
            with pytest.raises(ConnectionError):
                await to_thread.run_sync(read_out, client)


def read_out(client: ssl.SSLSocket) -> None:
    while client.recv(65536):
        pass
    raise ConnectionError("an end without leave")


async def test_who_is_slow_but_takes_something_is_not_cut_off_on_tls(tmp_path: Path) -> None:
    async with encrypted(tmp_path, write_timeout=1) as (served, _, certificates):
        await served.session()
        await served.run(json.dumps({"deltas": 6, "size": 1024 * 1024}))

        def read(client: ssl.SSLSocket) -> bytes:
            raw = b""
            while b'"complete"' not in raw[-400:] and (more := client.recv(16 * 1024)):
                raw += more
                time.sleep(0.003)
            return raw

        with await to_thread.run_sync(shaken, served, certificates.client(), 32 * 1024) as client:
            client.sendall(get("/claude/stream/s?query=x&turn_id=t"))
            start = time.monotonic()
            assert (await to_thread.run_sync(read, client)).count(b"x" * 1000) >= 6 * 1024
            assert time.monotonic() - start > 1  # longer than a client may take nothing


async def test_streams_over_tls_end_in_order_at_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FINISH_SECONDS", NEVER_SECONDS)  # when they would be cut
    monkeypatch.setattr(server, "FINISH_SECONDS", NEVER_SECONDS)
    async with encrypted(tmp_path) as (served, _, certificates):
        await served.session()
        async with talking(served.url, ssl=certificates.client()) as client, served.client.stream("GET", EVENTS) as on:
            following = events(on)
            await anext(following)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(served.stop)
                assert (await client.closed())[0] == 1001
                assert [event async for event in following] == []  # httpx raises where a stream is cut off
        with pytest.raises(OSError):
            await served.connect()


async def test_requests_in_a_row_and_what_is_no_frame(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as (served, _, _):
        await served.session()
        client = await served.encrypted()
        await client.send(get("/healthz") + get("/claude/sessions") + get("/nothing", "connection: close"))
        assert (await read_all(client)).count(b"HTTP/1.1 ") == 3
        socket = await served.encrypted()
        await socket.send(handshake())
        assert (await socket.receive()).startswith(b"HTTP/1.1 101 ")
        await socket.send(frame(Opcode.TEXT, b"x", mask=False))
        assert (await socket.receive())[2:4] == b"\x03\xea"  # a close frame with 1002

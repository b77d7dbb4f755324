"""Limits of numbers. Requests that are refused at once are in tests/e2e/test_attacks.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteReceiveStream

from portico.transports import http_connection
from tests.support.accesslog import access_lines
from tests.support.limits import HANG_SECONDS
from tests.support.serving import get, serving
from tests.support.websocket import talking

pytestmark = pytest.mark.anyio

EVENTS = "/claude/sessions/s/events"
POST = ("content-type: application/json",)


async def answer_to(stream: ByteReceiveStream) -> bytes:
    """All of it; the server closes, or says nothing more for a while."""
    raw = b""
    with anyio.move_on_after(10 if not raw else 0.3):
        while not re.search(rb'"code":"\w+"', raw):
            try:
                raw += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                break
    return raw


async def test_a_principal_has_so_many_streams_and_no_more(tmp_path: Path) -> None:
    async with serving(tmp_path, max_streams=2) as served:
        with access_lines() as lines:
            await served.session()
            async with served.client.stream("GET", EVENTS) as first, talking(served.url) as second:
                assert first.status_code == 200
                with anyio.fail_after(HANG_SECONDS):  # a stream that is not refused does not end
                    refusals = [
                        await served.client.get(EVENTS),
                        await served.client.get("/claude/stream/s?query=x"),
                        await served.client.post("/claude/stream/s", json={"query": "x"}),
                    ]
                for refused in refusals:
                    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
                    assert int(refused.headers["retry-after"]) > 0
                for v1 in (False, True):
                    async with talking(served.url, v1=v1) as third:
                        assert (await third.closed())[0] == 4429
                assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 0
                assert (await served.client.get(f"{EVENTS}?live=false")).status_code == 200  # no stream
                others = {"authorization": "Bearer bob-secret"}
                assert (await served.client.get(EVENTS, headers=others)).status_code == 404  # its own number
                await second.send("hi")
                await second.until("complete")
            await lines.wait("/claude/ws/s", 3)
            await served.run("again")  # both places are free
            for path in ("/claude/sessions/none/events", "/claude/stream/none?query=x"):  # and failures take none
                for _ in range(3):
                    assert (await served.client.get(path)).status_code == 404
            await served.run("and again", turn_id="u")


async def test_who_has_been_silent_longest_gives_way(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=3) as served:
        await served.session()
        stream = await served.raw(get(EVENTS))
        await anyio.lowlevel.checkpoint()
        oldest, second = await served.connect(), await served.raw(b"GET / HTTP/1.1\r\nhost:")
        for _ in range(20):  # none of those who ask is kept out by those who don't
            asking = await served.raw(get("/healthz"))
            with anyio.fail_after(HANG_SECONDS):
                raw = await asking.receive()
            assert raw.startswith(b"HTTP/1.1 200 ")
        for silent in (oldest, second):
            with anyio.fail_after(HANG_SECONDS), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await silent.receive()
        assert b'"seq":1' in await stream.receive()


async def test_where_all_are_at_work_one_more_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=2) as served:
        await served.session()
        async with served.client.stream("GET", EVENTS), talking(served.url):
            for _ in range(3):
                refused = await answer_to(await served.connect())
                assert refused.startswith(b"HTTP/1.1 503 ")
                assert b'"code":"too_many_connections"' in refused
        assert (await served.client.get("/healthz")).status_code == 200


CHUNKED = get("/claude/sessions", *POST, "transfer-encoding: chunked", method="POST")


async def send_all(stream: Any, sent: bytes) -> None:
    try:
        for start in range(0, len(sent), 50_000):
            await stream.send(sent[start : start + 50_000])
    except anyio.BrokenResourceError:
        pass


async def test_a_body_in_tiny_chunks_and_with_trailers_is_a_body_still(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        body = json.dumps({"title": "x" * 200, "metadata": {"a": "y" * 12_000}}).encode()
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        stream = await served.raw(CHUNKED)
        await send_all(stream, chunks + b"0\r\nIdempotency-Key: smuggled\r\nHost: evil\r\n\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 201 ")

        turn = get("/claude/sessions/s/turns", *POST, "transfer-encoding: chunked", method="POST")
        await served.session()
        stream = await served.raw(turn + b"d\r\n" + b'{"query":"x"}' + b"\r\n0\r\nIdempotency-Key: smuggled\r\n\r\n")
        raw = await stream.receive()
        assert raw.startswith(b"HTTP/1.1 202 ") and b"smuggled" not in raw


async def test_a_body_whose_chunks_never_end_is_timed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portico.transports.body.GRACE_SECONDS", 0.3)
    monkeypatch.setattr(http_connection, "LEFTOVER_SECONDS", 0.3)
    async with serving(tmp_path) as served:
        stream = await served.raw(CHUNKED + b"2;")
        assert (await answer_to(stream)).startswith(b"HTTP/1.1 408 ")


async def test_who_sends_too_many_requests_ahead_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        polite = await served.raw(get("/healthz") * 30)
        raw = b""
        with anyio.fail_after(HANG_SECONDS):
            while raw.count(b'{"status":"ok"}') < 30:
                raw += await polite.receive()
        greedy = await served.connect()
        await send_all(greedy, get("/healthz") * 2000)
        raw = b""
        with anyio.fail_after(HANG_SECONDS), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            while True:
                raw += await greedy.receive()
        assert raw.count(b"HTTP/1.1 ") < 100

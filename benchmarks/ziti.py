"""One server on TCP and on a real Ziti network at once: requests, floods and streams over the one against the other.

Only where PORTICO_TEST_ZITI names a `ziti` program.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Literal
from urllib.parse import quote, urlsplit

import uvloop

from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico
from benchmarks.watchers import Viewer, request
from portico.ziti.overlay import Overlay, OverlayDialler

ROUNDS = 3
REQUESTS = 500
FLOOD = 20_000
STREAMS = (50, 200)
EVENTS, GAP = 100, 0.05
SECONDS = 120
RATE = 20.0
"""Thousands a second. A share of what TCP does would say nothing: libziti alone carries 15 to 19 MiB a second."""

Dial = Callable[[], Awaitable[socket.socket]]
Way = Literal["ziti", "tcp"]


def measure() -> list[Row]:
    if not (program := os.environ.get("PORTICO_TEST_ZITI")):
        print("ziti: not measured, there is no ziti program; name one in PORTICO_TEST_ZITI", file=sys.stderr)
        return []
    from tests.ziti.network import running_network

    with ExitStack() as stack:
        network = stack.enter_context(running_network(program))
        stack.enter_context(network.inside())
        identity, person = network.identity("server"), network.identity("alice")
        network.service("portico")
        network.policy("Bind", ["@portico"], ["@server"])
        network.policy("Dial", ["@portico"], ["@alice"])
        settings = {"networking_mode": "http,ziti", "ziti_identity_file": identity, "ziti_service_name": "portico"}
        server = stack.enter_context(portico(driver="echo", store="memory", **settings))
        overlay = Overlay(person, "portico", {"PATH": os.environ["PATH"]})
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(overlay, server.url))


async def _measure(overlay: Overlay, url: str) -> list[Row]:
    address = urlsplit(url)
    dialler = OverlayDialler(overlay)

    async def tcp() -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (address.hostname, address.port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    ways: dict[Way, Dial] = {"ziti": dialler.dial, "tcp": tcp}
    try:
        await dialler.start()
        await _asked(await tcp(), "POST", "/claude/sessions", {"session_id": "s"})
        rows = [_row("request median", "ms", [await _each(_requests, ways) for _ in range(ROUNDS)], 5)]
        async with asyncio.timeout(SECONDS):
            turn = await _view(tcp, f"/claude/stream/s?query={quote(json.dumps({'deltas': FLOOD}))}")
            await turn.done.wait()
            turn.close()
        floods = [await _each(_flood, ways) for _ in range(ROUNDS)]
        rows.append(_rate("events read of a history, Ziti", floods))
        for streams in STREAMS:

            async def ages(dial: Dial, streams: int = streams) -> float:
                return await _ages(dial, tcp, streams)

            found = [await _each(ages, ways) for _ in range(ROUNDS)]
            rows.append(_row(f"event age p99, {streams} streams", "ms", found, 10))
        return rows
    finally:
        await dialler.close()


async def _each(measured: Callable[[Dial], Awaitable[float]], ways: dict[Way, Dial]) -> dict[Way, float]:
    return {way: await measured(dial) for way, dial in ways.items()}


def _row(name: str, unit: str, rounds: Sequence[dict[Way, float]], goal: float) -> Row:
    """The ratio within a round, as what else the machine does changes from one to the next."""
    ratio = statistics.median(each["ziti"] / each["tcp"] for each in rounds)
    return Row(f"{name}, Ziti / TCP", ratio, "x", goal, _medians(unit, rounds))


def _rate(name: str, rounds: Sequence[dict[Way, float]]) -> Row:
    rate = statistics.median(each["ziti"] for each in rounds)
    return Row(name, rate, "k/s", RATE, _medians("k/s", rounds), more_is_better=True)


def _medians(unit: str, rounds: Sequence[dict[Way, float]]) -> str:
    ziti, tcp = (statistics.median(each[way] for each in rounds) for way in ("ziti", "tcp"))
    return f"{ziti:.2f} {unit} against {tcp:.2f} {unit}, medians of {ROUNDS}"


async def _requests(dial: Dial) -> float:
    """Median milliseconds of requests on one connection."""
    connection = await dial()
    times = []
    with connection:
        for _ in range(REQUESTS):
            began = time.perf_counter()
            await _ask(connection, "GET", "/claude/sessions/s")
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


async def _flood(dial: Dial) -> float:
    """Thousands of events a second, to one who reads the history of a long turn."""
    began = time.perf_counter()
    viewer = await _view(dial, "/claude/sessions/s/events")
    async with asyncio.timeout(SECONDS):
        await viewer.done.wait()
    seconds = time.perf_counter() - began
    viewer.close()
    return len(viewer.ages({})) / seconds / 1000


async def _ages(dial: Dial, tcp: Dial, streams: int) -> float:
    """Milliseconds at the 99th percentile, of all events of all streams."""
    after = json.loads(await _asked(await tcp(), "GET", "/claude/sessions/s"))["last_seq"]
    viewers = [await _view(dial, f"/claude/sessions/s/events?after={after}") for _ in range(streams)]
    async with asyncio.timeout(SECONDS):
        for viewer in viewers:
            await viewer.there.wait()
        query = json.dumps({"deltas": EVENTS, "gap": GAP})
        await _asked(await tcp(), "POST", "/claude/sessions/s/turns", {"query": query})
        for viewer in viewers:
            await viewer.done.wait()
    made: dict[bytes, float] = {}
    ages = [age for viewer in viewers for age in viewer.ages(made).values()]
    assert len(ages) >= streams * EVENTS, "events are lost"
    for viewer in viewers:
        viewer.close()
    return statistics.quantiles(ages, n=100)[98]


async def _view(dial: Dial, path: str) -> Viewer:
    connection = await dial()
    connection.setblocking(False)
    viewer = Viewer(request("localhost", path, websocket=False))
    await asyncio.get_running_loop().create_connection(lambda: viewer, sock=connection)
    return viewer


async def _asked(connection: socket.socket, method: str, path: str, body: object = None) -> bytes:
    with connection:
        return await _ask(connection, method, path, body)


async def _ask(connection: socket.socket, method: str, path: str, body: object = None) -> bytes:
    """The body of a short answer that says how long it is."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in HEADERS.items())]
    lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    await loop.sock_sendall(connection, ("\r\n".join(lines) + "\r\n\r\n").encode() + content)
    answer = b""
    while True:
        chunk = await loop.sock_recv(connection, 65536)
        assert chunk, "the connection ended"
        answer += chunk
        head, found, rest = answer.partition(b"\r\n\r\n")
        if found:
            assert head.startswith(b"HTTP/1.1 2"), head
            if len(rest) >= int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
                return rest

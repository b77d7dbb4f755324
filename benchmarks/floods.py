"""Eight clients that flood the server at once, each a process of its own: what others notice, and what it costs.

For each kind of flood there is the p99 of `/healthz` meanwhile against that of an idle server, both in milliseconds,
and the memory of the server above that of an idle one.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.row import Row
from benchmarks.servers import HEADERS, Server, portico

CLIENTS = 8
IDLE_SECONDS, SECONDS, REST_SECONDS = 10.0, 10.0, 2.0
GAP = 0.004
"""Seconds from one question to the next. A server that does not answer for long keeps as many waiting as would have
asked meanwhile, and all of these count."""
ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER = b'{"status":"ok"}'
MIB = 1024 * 1024

CALM = "small"
FLOODS = {
    CALM: "small requests",
    "values": "bodies of small values",
    "frames": "frames, with a ticket to read",
    "halves": "bodies without their ends",
    "escapes": "bodies of escapes",
}


@dataclass(slots=True)
class Seen:
    """Milliseconds until answers, and bytes of memory."""

    times: list[float] = field(default_factory=list)
    memory: int = 0

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.times, n=100)[98]

    @property
    def p50(self) -> float:
        return statistics.median(self.times)


def measure() -> Iterator[Row]:
    with portico(driver="echo", pool_size=0) as server:
        with httpx.Client(headers=HEADERS, timeout=60, base_url=f"{server.url}/claude") as client:
            client.post("/sessions", json={"session_id": "s"}).raise_for_status()
            client.post("/stream/s", json={"query": "hello", "turn_id": "known"}).raise_for_status()
            ticket = client.post("/sessions/s/tickets", json={}).raise_for_status().json()["ticket"]
        with _flooding(server, ticket, CALM):  # for what is only done once
            _look(server, REST_SECONDS)
        idle = _look(server, IDLE_SECONDS)
        for shape, name in FLOODS.items():
            with _flooding(server, ticket, shape) as clients:
                seen = _look(server, SECONDS)
                count = sum(map(_stop, clients))
            note = (
                f"p99 {seen.p99:.1f} ms against {idle.p99:.1f} (p50 {seen.p50:.1f}, {idle.p50:.1f}; "
                f"longest {max(seen.times):.0f}, {max(idle.times):.0f}), beside {count} of them"
            )
            yield Row(f"/healthz p99, {name} / idle", seen.p99 / idle.p99, "x", 3, note)
            more = (seen.memory - idle.memory) / MIB
            yield Row(f"memory, {name} - idle", more, "MiB", 150, f"RSS, the most of {len(seen.times)} looks")
            time.sleep(REST_SECONDS)


def _look(server: Server, seconds: float) -> Seen:
    process, address = psutil.Process(server.pid), urlsplit(server.url)
    seen = Seen()
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            late = time.perf_counter()
            connection.sendall(ASK)
            answer = b""
            while not answer.endswith(ANSWER):
                answer += connection.recv(4096)
            answered = time.perf_counter()
            seen.memory = max(seen.memory, process.memory_info().rss)
            seen.times.append((answered - late) * 1000)
            due += GAP
            while due < answered:  # who would have asked meanwhile
                seen.times.append((answered - due) * 1000)
                due += GAP
    return seen


Client = subprocess.Popen[str]


@contextmanager
def _flooding(server: Server, ticket: str, shape: str) -> Iterator[Sequence[Client]]:
    argv = [sys.executable, "-m", "benchmarks.flooders", server.url, ticket, shape]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(CLIENTS)
        ]
        for client in clients:
            stack.callback(client.kill)
        for client in clients:
            _read(client)
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        yield clients


def _stop(client: Client) -> int:
    """Return the number of times that it has sent its bytes."""
    assert client.stdin is not None
    client.stdin.close()
    return int(_read(client))


def _read(client: Client) -> str:
    assert client.stdout is not None
    return client.stdout.readline()

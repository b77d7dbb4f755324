"""The cost of keeping every event in SQLite, against keeping it in memory."""

from __future__ import annotations

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from benchmarks.first_token import first_token
from benchmarks.model import scripted_model
from benchmarks.row import Row
from benchmarks.servers import HEADERS, Server, portico

RUNS, EVENTS, ROUNDS = 20, 1000, 3
WORDS = json.dumps([{"say": "word ", "words": EVENTS, "gap_ms": 2}])


def measure() -> list[Row]:
    common = {"anthropic_api_key": "k", "max_tokens": 1_000_000}
    with (
        scripted_model() as model,
        portico(anthropic_base_url=model, store="sqlite", **common) as durable,
        portico(anthropic_base_url=model, store="memory", **common) as memory,
    ):
        first = [[_first(server) for _ in range(RUNS)] for server in (durable, memory)]
        one = [[_cpu(server, 1) for server in (durable, memory)] for _ in range(ROUNDS)]
        eight = [[_cpu(server, 8) for server in (durable, memory)] for _ in range(ROUNDS)]
    a, b = (statistics.median(times) * 1000 for times in first)
    rows = [Row("first token, sqlite / memory", a / b, "x", 1.10, f"{a:.0f} ms against {b:.0f} ms, median of {RUNS}")]
    for name, goal, figures in (("8 sessions", 1.5, eight), ("one session", 2.0, one)):
        a, b = (statistics.median(column) for column in zip(*figures, strict=True))
        note = f"{a:.0f} µs against {b:.0f} µs"
        rows.append(Row(f"CPU an event, {name}, sqlite / memory", a / b, "x", goal, note))
    return rows


def _client(server: Server) -> httpx.Client:
    return httpx.Client(headers=HEADERS, timeout=120, base_url=f"{server.url}/claude")


def _first(server: Server) -> float:
    with _client(server) as client:
        client.post("/sessions", json={"session_id": "warm"})
        first_token(client, "warm")
        began = time.perf_counter()
        return first_token(client, "warm") - began


def _cpu(server: Server, sessions: int) -> float:
    """Microseconds of the server's own CPU time for each live event."""
    process = psutil.Process(server.pid)
    with _client(server) as client:
        names = [f"cpu-{n}" for n in range(sessions)]
        for name in names:
            client.post("/sessions", json={"session_id": name})
            client.post(f"/stream/{name}", json={"query": "warm up"}).raise_for_status()

        def stream(name: str) -> int:
            with client.stream("POST", f"/stream/{name}", json={"query": f"[[{WORDS}]]"}) as answer:
                return sum(line.startswith("id: ") for line in answer.iter_lines())

        before = process.cpu_times()
        with ThreadPoolExecutor(sessions) as pool:
            events = sum(pool.map(stream, names))
        after = process.cpu_times()
        for name in names:
            client.delete(f"/sessions/{name}?purge=true").raise_for_status()
    return (after.user + after.system - before.user - before.system) / events * 1e6

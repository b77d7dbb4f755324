"""Many open sessions on few processes: what a session costs, and how fast it wakes."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from benchmarks.first_token import BareCli, first_token
from benchmarks.model import scripted_model
from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico

PROCESSES, WARM_UP, SESSIONS, RUNS = 4, 100, 2000, 15


def measure() -> list[Row]:
    settings = {"anthropic_api_key": "k", "max_sessions": SESSIONS + 100, "max_processes": PROCESSES, "pool_size": 0}
    with (
        scripted_model() as model,
        tempfile.TemporaryDirectory(prefix="portico-bench-") as folder,
        portico(anthropic_base_url=model, **settings) as server,
        httpx.Client(headers=HEADERS, timeout=60, base_url=f"{server.url}/claude") as client,
    ):
        for n in range(2 * PROCESSES):  # so that waking one sends another to sleep
            client.post("/sessions", json={"session_id": f"used-{n}"}).raise_for_status()
            first_token(client, f"used-{n}")
        process = psutil.Process(server.pid)
        for count in (WARM_UP, SESSIONS - WARM_UP):
            before = process.memory_info().rss
            for _ in range(count):
                client.post("/sessions", json={}).raise_for_status()
        kib = (process.memory_info().rss - before) / 1024 / (SESSIONS - WARM_UP)
        waking, bare = [], []
        cli = BareCli(model, Path(folder))
        cli.turn()
        cli.close()
        for n in range(RUNS):
            began = time.perf_counter()
            waking.append(first_token(client, f"used-{n % (2 * PROCESSES)}") - began)
            began = time.perf_counter()
            again = BareCli(model, Path(folder), resume=cli.session_id)
            bare.append(again.turn() - began)
            again.close()
    a, b = (statistics.median(times) * 1000 for times in (waking, bare))
    return [
        Row(f"memory of one of {SESSIONS} open sessions", kib, "KiB", 60, f"RSS, on {PROCESSES} processes"),
        Row("first token, waking / bare --resume", a / b, "x", 1.2, f"{a:.0f} ms against {b:.0f} ms, median of {RUNS}"),
    ]

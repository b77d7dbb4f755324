"""The first token of a new session whose agent was started ahead, against a cold start and a bare CLI started ahead."""

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
from benchmarks.servers import HEADERS, Server, portico

RUNS = 15
SETTLE = 2.5
"""Seconds in which a process that was just started comes to rest."""


def measure() -> list[Row]:
    pooled, cold, bare = [], [], []
    with (
        scripted_model() as model,
        tempfile.TemporaryDirectory(prefix="portico-bench-") as folder,
        portico(anthropic_base_url=model, anthropic_api_key="k", pool_size=1) as ahead,
        portico(anthropic_base_url=model, anthropic_api_key="k", pool_size=0) as without,
    ):
        for _ in range(RUNS):
            cli = BareCli(model, Path(folder))
            _until_ready(ahead)
            time.sleep(SETTLE)
            pooled.append(_new_session(ahead))
            began = time.perf_counter()
            bare.append(cli.turn() - began)
            cli.close()
            time.sleep(SETTLE)
            cold.append(_new_session(without))
    a, b, c = (statistics.median(times) * 1000 for times in (pooled, cold, bare))
    return [
        Row("first token, pool / cold start", a / b, "x", 0.5, f"{a:.0f} ms against {b:.0f} ms, median of {RUNS}"),
        Row("first token, pool / bare CLI ahead", a / c, "x", 1.3, f"{a:.0f} ms against {c:.0f} ms"),
    ]


def _until_ready(server: Server) -> None:
    process = psutil.Process(server.pid)
    while not any("claude" in child.name() for child in process.children(recursive=True)):
        time.sleep(0.05)


def _new_session(server: Server) -> float:
    with httpx.Client(headers=HEADERS, timeout=60, base_url=f"{server.url}/claude") as client:
        began = time.perf_counter()
        session_id = client.post("/sessions", json={}).json()["session_id"]
        took = first_token(client, session_id) - began
        client.delete(f"/sessions/{session_id}").raise_for_status()
    return took

"""20,000 events replayed to one client, against sse-starlette yielding dicts."""

from __future__ import annotations

import json
import statistics
import sys
import time

import httpx

from benchmarks.bare_app import EVENTS
from benchmarks.model import scripted_model
from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico, program

RUNS = 5


def measure() -> list[Row]:
    return [_measure("memory", 8), _measure("sqlite", 5)]


def _measure(store: str, goal: float) -> Row:
    words = json.dumps([{"say": "word ", "words": EVENTS}])
    with (
        scripted_model() as model,
        portico(anthropic_base_url=model, anthropic_api_key="k", max_tokens=1_000_000, store=store) as ours,
    ):
        base = f"{ours.url}/claude"
        with httpx.Client(headers=HEADERS, timeout=300) as client:
            client.post(f"{base}/sessions", json={"session_id": "s"}).raise_for_status()
            client.post(f"{base}/stream/s", json={"query": f"[[{words}]]"}).raise_for_status()
            last = client.get(f"{base}/sessions/s").json()["last_seq"]
        with program([sys.executable, "-m", "benchmarks.bare_app"]) as bare:
            rates = [(rate(f"{base}/sessions/s/events", last), rate(f"{bare.url}/events", EVENTS)) for _ in range(RUNS)]
    a, b = (statistics.median(column) for column in zip(*rates, strict=True))
    note = f"{a:,.0f} against {b:,.0f} events/s, median of {RUNS}"
    return Row(f"replay, {store} / sse-starlette, dicts", a / b, "x", goal, note, more_is_better=True)


def rate(url: str, last: int) -> float:
    """Events a second until the one numbered ``last`` is there."""
    end = f"id: {last}".encode()
    began, tail = time.perf_counter(), b""
    with httpx.stream("GET", url, headers=HEADERS, timeout=60) as stream:
        for chunk in stream.iter_raw():
            tail = (tail + chunk)[-400:] if len(chunk) < 400 else chunk[-400:]
            if end in tail:
                return last / (time.perf_counter() - began)
    raise RuntimeError("the stream ended early")

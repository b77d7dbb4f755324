"""Time to the first token of a warm turn through the key gateway, against agents that hold the key themselves."""

from __future__ import annotations

import statistics
import time

import httpx

from benchmarks.first_token import first_token
from benchmarks.model import scripted_model
from benchmarks.row import Row
from benchmarks.servers import HEADERS, Server, portico

RUNS = 60


def measure() -> list[Row]:
    with (
        scripted_model() as model,
        portico(anthropic_base_url=model, anthropic_api_key="k", pool_size=0) as on,
        portico(anthropic_base_url=model, anthropic_api_key="k", pool_size=0, key_gateway="off") as off,
    ):
        pairs = _interleaved(on, off)
    ours, bare = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    note = f"{ours:.1f} ms against {bare:.1f} ms, median of {RUNS}"
    return [Row("first token, gateway on / off", ours / bare, "x", 1.15, note)]


def _interleaved(*servers: Server) -> list[tuple[float, ...]]:
    clients = [httpx.Client(headers=HEADERS, timeout=60, base_url=f"{server.url}/claude") for server in servers]
    for client in clients:
        client.post("/sessions", json={"session_id": "warm"}).raise_for_status()
    rounds = [tuple(_turn(client) for client in clients) for _ in range(RUNS + 5)]
    for client in clients:
        client.close()
    return rounds[5:]


def _turn(client: httpx.Client) -> float:
    began = time.perf_counter()
    return first_token(client, "warm") - began

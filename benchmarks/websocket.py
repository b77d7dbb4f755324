"""20,000 events replayed over a WebSocket, against uvicorn sending ready text from a bare app."""

from __future__ import annotations

import base64
import json
import os
import socket
import statistics
import sys
import time
from urllib.parse import urlsplit

import httpx

from benchmarks.bare_app import EVENTS
from benchmarks.model import scripted_model
from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico, program

RUNS = 5


def measure() -> list[Row]:
    words = json.dumps([{"say": "word ", "words": EVENTS}])
    with (
        scripted_model() as model,
        portico(anthropic_base_url=model, anthropic_api_key="k", max_tokens=1_000_000) as ours,
    ):
        base = f"{ours.url}/claude"
        with httpx.Client(headers=HEADERS, timeout=300) as client:
            client.post(f"{base}/sessions", json={"session_id": "s"}).raise_for_status()
            client.post(f"{base}/stream/s", json={"query": f"[[{words}]]"}).raise_for_status()
            last = client.get(f"{base}/sessions/s").json()["last_seq"]
        with program([sys.executable, "-m", "benchmarks.bare_websocket"]) as bare:
            rates = [(rate(ours.url, "/claude/ws/s?after=0", last), rate(bare.url, "/", EVENTS)) for _ in range(RUNS)]
    a, b = (statistics.median(column) for column in zip(*rates, strict=True))
    note = f"{a:,.0f} against {b:,.0f} events/s, median of {RUNS}"
    return [Row("WebSocket replay / bare uvicorn", a / b, "x", 0.5, note, more_is_better=True)]


def rate(url: str, path: str, last: int) -> float:
    """Events a second until the one numbered ``last`` is there. The client does not take the frames apart: it would be
    the slowest of all."""
    address = urlsplit(url)
    key = base64.b64encode(os.urandom(16)).decode()
    head = [
        *(f"GET {path} HTTP/1.1", f"Host: {address.netloc}", "Connection: Upgrade", "Upgrade: websocket"),
        *(f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"),
        *(f"{name}: {value}" for name, value in HEADERS.items()),
    ]
    ends = f'"seq":{last},'.encode(), f'"seq": {last},'.encode()
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        began, tail = time.perf_counter(), b""
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        while chunk := connection.recv(1024 * 1024):
            tail = (tail + chunk)[-400:] if len(chunk) < 400 else chunk[-400:]
            if any(end in tail for end in ends):
                return last / (time.perf_counter() - began)
    raise RuntimeError("the stream ended early")

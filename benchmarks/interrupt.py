"""From an interrupt of a streaming turn to its end, against the bare CLI."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from benchmarks.first_token import BareCli
from benchmarks.model import scripted_model
from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico

RUNS = 20
ENDLESS = '[[{"say": "word ", "words": 100000, "gap_ms": 10}]]'


class Interruptible(BareCli):
    def interrupted(self) -> float:
        """Seconds from asking for the interrupt to the result of the turn."""
        asked = {"type": "control_request", "request_id": "r", "request": {"subtype": "interrupt"}}
        self._write({"type": "user", "message": {"role": "user", "content": ENDLESS}})
        began = 0.0
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if not began and b"text_delta" in line:
                began = time.perf_counter()
                self._write(asked)
            if b'"type":"result"' in line:
                return time.perf_counter() - began
        raise RuntimeError("the CLI ended")

    def _write(self, message: Mapping[str, object]) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(message).encode() + b"\n")
        self._child.stdin.flush()


def measure() -> list[Row]:
    with (
        scripted_model() as model,
        tempfile.TemporaryDirectory(prefix="portico-bench-") as folder,
        portico(anthropic_base_url=model, anthropic_api_key="k") as server,
        httpx.Client(headers=HEADERS, timeout=60, base_url=f"{server.url}/claude") as client,
    ):
        bare = Interruptible(model, Path(folder))
        client.post("/sessions", json={"session_id": "s"}).raise_for_status()
        bare.interrupted(), _interrupted(client)  # warm
        times = [(_interrupted(client), bare.interrupted()) for _ in range(RUNS)]
        bare.close()
    a, b = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
    note = f"{a:.0f} ms against {b:.0f} ms, median of {RUNS}"
    return [Row("interrupt to complete, above bare CLI", a - b, "ms", 100, note)]


def _interrupted(client: httpx.Client) -> float:
    began = 0.0
    with client.stream("POST", "/stream/s", json={"query": ENDLESS}) as stream:
        for line in stream.iter_lines():
            if not began and '"type":"delta"' in line:
                began = time.perf_counter()
                client.post("/sessions/s/interrupt").raise_for_status()
            if '"type":"complete"' in line:
                return time.perf_counter() - began
    raise RuntimeError("the stream ended early")

"""The memory that an idle session without a process costs the server."""

from __future__ import annotations

import httpx
import psutil

from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico

WARM_UP, SESSIONS = 200, 2000


def measure() -> list[Row]:
    with portico(max_sessions=WARM_UP + SESSIONS) as server, httpx.Client(headers=HEADERS, timeout=60) as client:
        process = psutil.Process(server.pid)
        for count in (WARM_UP, SESSIONS):
            before = process.memory_info().rss
            for _ in range(count):
                client.post(f"{server.url}/claude/sessions", json={}).raise_for_status()
        kib = (process.memory_info().rss - before) / 1024 / SESSIONS
    return [Row("memory of an idle session", kib, "KiB", 40, f"RSS, mean of {SESSIONS}")]

"""A store with 100,000 sessions and 5 million events, against one with 100 sessions, and an empty one."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import anyio
import httpx

from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico
from portico.core.agent import AgentOptions
from portico.core.events import Event, encode_json
from portico.core.state import State
from portico.core.store import SessionRecord
from portico.plugins.sqlite_store.store import SqliteStore

SESSIONS, EVENTS, RUNS = 100_000, 50, 7


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="portico-bench-") as folder:
        folders = {count: Path(folder, str(count)) for count in (0, 100, SESSIONS)}
        for count, path in folders.items():
            path.mkdir()
            anyio.run(_fill, path / "portico.db", count)
        os.sync()  # or the disk is still writing while the measurement runs
        ready: dict[int, list[float]] = {count: [] for count in folders}
        listing: dict[int, list[float]] = {count: [] for count in folders}
        opening: dict[int, list[float]] = {count: [] for count in folders}
        for _ in range(RUNS):
            for count, path in folders.items():
                with portico(data_dir=path, pool_size=0) as server:
                    ready[count].append(server.seconds_to_ready)
                    if count:
                        with httpx.Client(headers=HEADERS, base_url=f"{server.url}/claude") as client:
                            listing[count] += _times(client, ["/sessions?limit=50"] * 20)
                            names = [f"session-{n * 37 % count}" for n in range(20)]
                            urls = [f"/sessions/{name}/events?live=false" for name in names]
                            opening[count] += _times(client, urls)
    figures = {}
    for name, times in (("ready", ready), ("listing", listing), ("opening", opening)):
        figures[name] = {count: statistics.median(values) * 1000 for count, values in times.items() if values}
    return [
        _row("ready, 100,000 sessions / none", figures["ready"], 0),
        _row("listing, 100,000 sessions / 100", figures["listing"], 100),
        _row("opening, 100,000 sessions / 100", figures["opening"], 100),
    ]


def _row(name: str, figures: dict[int, float], other: int) -> Row:
    a, b = figures[SESSIONS], figures[other]
    return Row(name, a / b, "x", 2, f"{a:.1f} ms against {b:.1f} ms")


def _times(client: httpx.Client, urls: list[str]) -> list[float]:
    client.get("/sessions?limit=1").raise_for_status()
    times = []
    for url in urls:
        began = time.perf_counter()
        client.get(url).raise_for_status()
        times.append(time.perf_counter() - began)
    return times


async def _fill(path: Path, count: int) -> None:
    store = SqliteStore(path)
    await store.open()
    for start in range(0, count, 64):
        async with anyio.create_task_group() as tasks:
            for n in range(start, min(start + 64, count)):
                tasks.start_soon(_session, store, n)
    await store.close()


async def _session(store: SqliteStore, n: int) -> None:
    name, time_ = f"session-{n}", f"2026-01-01T{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}.000Z"
    record = SessionRecord(
        session_id=name,
        agent_id=name,
        owner=f"owner-{n % 100}",
        driver="claude-code",
        state=State.DORMANT,
        cwd="/nowhere",
        own_workspace=True,
        options=AgentOptions(),
        created_at=time_,
        last_active_at=time_,
    )
    await store.create(record)
    events = []
    for seq in range(1, EVENTS + 1):
        kind = "query" if seq == 1 else "complete" if seq == EVENTS else "delta"
        body = {"type": kind, "session_id": name, "seq": seq, "time": time_, "turn_id": "t", "content": f"word {seq} "}
        events.append(Event(seq, kind, "t", encode_json(body)))
    await store.append(name, 0, events, record)

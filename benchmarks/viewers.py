"""200 viewers of one session at 50 events/s each, half of them over WebSockets, against ready frames of a bare app."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from benchmarks.bare_viewers import EVENTS, GAP
from benchmarks.model import scripted_model
from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico, program
from benchmarks.watchers import STALLED, VIEWERS

RUNS = 5
USAGE = {"input_tokens": 5, "output_tokens": 7}  # few, so that the CLI sees no need to compact
HISTORY = f"[[{json.dumps({'size': 3_000_000, 'usage': USAGE})}]]"
"""More than the kernel takes for a client that never reads."""
TALK = f"[[{json.dumps({'say': 'word ', 'words': EVENTS, 'gap_ms': GAP * 1000})}]]"


@dataclass(frozen=True, slots=True)
class Figures:
    """Ages in milliseconds; ``rate`` in events a second, of each viewer; ``lost`` in all."""

    p50: float
    p99: float
    lost: int
    rate: float


def measure() -> list[Row]:
    with (
        scripted_model() as model,
        portico(anthropic_base_url=model, anthropic_api_key="k") as ours,
        program([sys.executable, "-m", "benchmarks.bare_viewers"]) as bare,
        httpx.Client(headers=HEADERS, timeout=60) as client,
    ):
        api = f"{ours.url}/claude"

        def turn(query: str, **options: bool) -> None:
            client.post(f"{api}/stream/s", json={"query": query, **options}).raise_for_status()

        def watched(stalled: int) -> Figures:
            after = client.get(f"{api}/sessions/s").json()["last_seq"]
            paths = "/claude/sessions/s/events", "/claude/ws/s"
            return _watch(ours.url, *paths, after, stalled, lambda: turn(TALK))

        def bare_watched(after: int) -> Figures:
            start = f"{bare.url}/start"
            return _watch(bare.url, "/events", "/ws", after, 0, lambda: client.post(start).raise_for_status())

        client.post(f"{api}/sessions", json={"session_id": "s"}).raise_for_status()
        turn(HISTORY)
        turn(
            "/clear", commands=True
        )  # the viewers' history stays, but the agent's turns are not to begin with megabytes
        rounds = [(watched(0), watched(STALLED), bare_watched(n * EVENTS)) for n in range(RUNS)]
    alone, beside, other = zip(*rounds, strict=True)
    rate = statistics.median(figures.rate for figures in alone)
    lost = sum(figures.lost for figures in (*alone, *beside))
    return [
        _row(f"event age p99, {VIEWERS} viewers / bare ASGI", alone, other),
        _row(f"the same, {STALLED} more never read / without", beside, alone),
        Row("events lost", lost, "", 0, f"at {rate:.0f} events/s each, with and without them"),
    ]


def _row(name: str, these: Sequence[Figures], those: Sequence[Figures]) -> Row:
    """The ratio within a round, as what else the machine does changes from one to the next."""
    ratio = statistics.median(a.p99 / b.p99 for a, b in zip(these, those, strict=True))
    p50, p99, bare50, bare99 = (
        statistics.median(getattr(figures, name) for figures in column)
        for column in (these, those)
        for name in ("p50", "p99")
    )
    note = f"p99 {p99:.1f} ms against {bare99:.1f} ms (p50 {p50:.1f}, {bare50:.1f}), medians of {RUNS}"
    return Row(name, ratio, "x", 1.5, note)


def _watch(url: str, sse: str, websocket: str, after: int, stalled: int, start: Callable[[], object]) -> Figures:
    argv = [sys.executable, "-m", "benchmarks.watchers", url, sse, websocket, str(after), str(stalled)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watchers:
        assert watchers.stdout is not None
        try:
            assert watchers.stdout.readline() == "ready\n"
            start()
            return Figures(**json.loads(watchers.stdout.readline()))
        finally:
            watchers.kill()

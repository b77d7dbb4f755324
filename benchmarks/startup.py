"""From the start of the process to the line that says ready."""

from __future__ import annotations

import statistics
import sys

from benchmarks.row import Row
from benchmarks.servers import portico, program

RUNS = 7


def measure() -> list[Row]:
    ours, bare = [], []
    for _ in range(RUNS):
        with portico() as server:
            ours.append(server.seconds_to_ready)
        with program([sys.executable, "-m", "benchmarks.bare_app"]) as server:
            bare.append(server.seconds_to_ready)
    a, b = statistics.median(ours), statistics.median(bare)
    return [Row("serve ready / bare uvicorn ready", a / b, "x", 3, f"{a:.2f} s against {b:.2f} s, median of {RUNS}")]

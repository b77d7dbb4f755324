"""Runs the benchmarks named on the command line, else all; exit status 1 where a goal is missed."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    *("startup", "memory", "replay", "websocket", "first_token", "interrupt", "viewers"),
    *("pool", "durable", "many", "large", "gateway", "ziti"),
)


def main() -> int:
    missed = 0
    for name in sys.argv[1:] or NAMES:
        for row in import_module(f"benchmarks.{name}").measure():
            print(row, flush=True)
            missed += not row.reached
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

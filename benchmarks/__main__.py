"""Runs the benchmarks named on the command line, else all; exit status 1 where a goal is missed."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

NAMES = (
    *("startup", "memory", "replay", "websocket", "first_token", "interrupt", "viewers"),
    *("pool", "durable", "many", "large", "floods", "gateway", "ziti"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(NAMES)}")
    names: list[str] = parser.parse_args().names
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    missed = 0
    for name in names or NAMES:
        for row in import_module(f"benchmarks.{name}").measure():
            print(row, flush=True)
            missed += not row.reached
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

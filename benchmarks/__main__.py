"""Runs the benchmarks named on the command line, else all; exit status 1 where a goal is missed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

NAMES = (
    *("startup", "memory", "replay", "websocket", "first_token", "interrupt", "viewers"),
    *("pool", "durable", "many", "large", "floods", "gateway", "ziti"),
)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="print each row as a line of JSON")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    missed = 0
    for name in options.names or NAMES:
        for row in import_module(f"benchmarks.{name}").measure():
            print(row.as_json() if options.json else row, flush=True)
            missed += not row.reached
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measures another build and this one in turn, by the same interpreter on the same machine, and compares their rows.

Exit status 1 where a row is worse or a benchmark of either build fails, else 0; 2 for what can't be compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.build import Build, BuildError, Failed, check_out
from benchmarks.comparison import HEADING, Verdict, compare
from benchmarks.row import Row
from benchmarks.running import Interrupted, Interrupts, interrupts

ROUNDS = 3
INTERRUPTED = 130
"""As a shell has it for Ctrl-C."""


def main(argv: Sequence[str], root: Path) -> int:
    """Compare ``root``, a work tree of Git, with another of its commits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", metavar="OLD", help="the commit, tag or branch to compare with")
    parser.add_argument("names", metavar="NAME", nargs="*", help="a benchmark; without one all are run")
    parser.add_argument("--rounds", type=_rounds, default=ROUNDS, metavar="N", help="of each build (%(default)s)")
    options = parser.parse_args(argv)
    with interrupts() as told:
        try:
            with tempfile.TemporaryDirectory(prefix="pc-") as folder:
                return _compare(options.old, options.names, options.rounds, root, Path(os.path.realpath(folder)), told)
        except BuildError as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 2
        except Interrupted:
            print("\ninterrupted", file=sys.stderr)
            return INTERRUPTED


def _compare(ref: str, asked: Sequence[str], rounds: int, root: Path, folder: Path, told: Interrupts) -> int:
    (folder / "old").mkdir()
    commit = check_out(root, ref, folder / "old")
    old = Build(f"{ref} ({commit[:10]})", folder / "old", folder, told)
    new = Build("the working tree", root, folder, told)
    for build in (old, new):
        build.check()
    known = [*new.names, *(name for name in old.names if name not in new.names)]
    if unknown := [name for name in asked if name not in known]:
        raise BuildError(f"there is no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    print(f"old: {old.label}\nnew: {new.label}, {root}\nmedians of {rounds} rounds each\n\n{HEADING}", flush=True)
    good = True
    for name in asked or known:
        good &= _benchmark(name, old, new, rounds)
    return 0 if good else 1


def _benchmark(name: str, old: Build, new: Build, rounds: int) -> bool:
    """Print the rows of one benchmark; say whether none is worse."""
    found: dict[str, list[list[Row]]] = {"old": [], "new": []}
    sides = {side: build for side, build in (("old", old), ("new", new)) if name in build.names}
    for number in range(1, rounds + 1):
        for side, build in sides.items():
            print(f"{name}, round {number} of {rounds}, {side}: ", end="", file=sys.stderr, flush=True)
            began = time.monotonic()
            try:
                found[side].append(build.measure(name))
            except Failed as failure:
                print("failed", file=sys.stderr)
                print(f"{name} fails in {build.label}: {failure}", flush=True)
                return False
            print(f"{time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    if len(sides) == 1:
        print(f"{name}: a benchmark of the {next(iter(sides))} build alone")
    comparisons = compare(found["old"], found["new"])
    for comparison in comparisons:
        print(comparison, flush=True)
    return all(comparison.verdict is not Verdict.WORSE for comparison in comparisons)


def _rounds(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[1]))

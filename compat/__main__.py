"""Prints the table of a subject, as Markdown, for another build and this one side by side.

A subject is a module here with `table(builds, names)`, which yields its lines. `builds` are the old and the new one,
each started by `benchmarks.servers.portico_of(build.root, ...)`; `names` are the rows that were asked for (none: all).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.build import Build, BuildError, check_out
from benchmarks.running import Interrupts

SUBJECTS = ("clients", "proxies", "ziti")


def main(argv: Sequence[str], root: Path) -> int:
    """Compare ``root``, a work tree of Git, with another of its commits. Exit status 2 where that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m compat", description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("names", metavar="NAME", nargs="*", help="a row of the table; without one all are made")
    parser.add_argument("--old", metavar="REF", required=True, help="the commit, tag or branch to compare with")
    options = parser.parse_intermixed_args(argv)
    with tempfile.TemporaryDirectory(prefix="pc-") as name:
        folder = Path(os.path.realpath(name))
        try:
            (folder / "old").mkdir()
            commit = check_out(root, options.old, folder / "old")
            old = Build(f"{options.old} ({commit[:10]})", folder / "old", folder, Interrupts())
            new = Build("the working tree", root, folder, Interrupts())
            for build in (old, new):
                build.check()
            print(f"old: {old.label}; new: {new.label}\n", flush=True)
            for line in import_module(f"compat.{options.subject}").table((old, new), options.names):
                print(line, flush=True)
        except BuildError as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[1]))

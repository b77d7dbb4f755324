"""Writes constraints-floors.txt, in which every direct dependency has the lowest version that pyproject.toml allows.

    python -m tests.floors

It needs uv (`pip install uv`). What the tests need beside these is as in constraints.txt.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FILE = ROOT / "constraints-floors.txt"
EXTRAS = ("claude", "jwt", "testing", "ziti")
OLDEST_PYTHON = "3.11"
"""That of ``requires-python``."""


def pins(path: Path) -> dict[str, Requirement]:
    """The lines of a file of constraints, by the package's name."""
    found = [Requirement(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in found}


def write() -> None:
    argv = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
        *("--resolution", "lowest-direct", "--python-version", OLDEST_PYTHON),
        *(word for extra in EXTRAS for word in ("--extra", extra)),
        *("--output-file", str(FILE), "pyproject.toml"),
    ]
    FILE.unlink(missing_ok=True)  # or what is in it would be preferred
    subprocess.run(argv, check=True, cwd=ROOT)
    found = pins(FILE)
    for name, pin in pins(ROOT / "constraints.txt").items():
        found.setdefault(name, pin)
    head = "# Made by `python -m tests.floors`; used by `make test-floors`.\n"
    FILE.write_text(head + "".join(f"{found[name]}\n" for name in sorted(found)))


if __name__ == "__main__":
    write()

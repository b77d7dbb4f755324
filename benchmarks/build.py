"""A build of the server: a source tree whose own benchmarks run, by this interpreter, on its own code."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks.row import Row, read_row
from benchmarks.running import Finished, Interrupts, run

BENCHMARK_SECONDS = 1800.0
"""For one run of one benchmark."""
ASK_SECONDS = 120.0
TAIL = 30
"""Lines that are shown of what a failed run has complained about."""

_WHERE = "import os, portico, benchmarks; print(os.path.dirname(portico.__file__))"
_NAMES = "from benchmarks.__main__ import NAMES; print(*NAMES)"
_EXTRAS = ("claude",)


class BuildError(Exception):
    """A build can't be measured; the message says why."""


class Failed(Exception):
    """A benchmark has no rows; the message, of several lines, says why."""


@dataclass(frozen=True)
class Build:
    """``label`` is for people. ``temporary`` is a folder for what its benchmarks keep while they run."""

    label: str
    root: Path
    temporary: Path
    told: Interrupts

    def check(self) -> None:
        """Compile it, so that no round pays for that. Raises `BuildError` where it can't be measured here."""
        if not (self.root / "benchmarks" / "__main__.py").is_file():
            raise BuildError(f"{self.label} has no benchmarks")
        if wrong := _unmet(self.root):
            raise BuildError(f"{self.label} has other dependencies than are installed here: {'; '.join(wrong)}")
        self._python("-m", "compileall", "-q", "portico", "benchmarks")
        where = self._python("-c", _WHERE, cwd=self.temporary)
        if where.status != 0:
            raise BuildError(f"{self.label} can't be imported:\n{_tail(where)}")
        if Path(where.output.strip()) != self.root / "portico":
            raise BuildError(f"{self.label} is not what is imported, but {where.output.strip()}")

    @cached_property
    def names(self) -> list[str]:
        """Its benchmarks, in its own order."""
        found = self._python("-c", _NAMES)
        if found.status != 0:
            raise BuildError(f"{self.label} does not tell its benchmarks:\n{_tail(found)}")
        return found.output.split()

    def measure(self, name: str) -> list[Row]:
        """Run one of its benchmarks. Raises `Failed`, and `Interrupted`."""
        finished = self._python("-m", "benchmarks", *self._format, name, seconds=BENCHMARK_SECONDS)
        rows = [row for line in finished.output.splitlines() if (row := read_row(line)) is not None]
        missed = any(not row.reached for row in rows)
        if finished.status is None:
            raise Failed(f"it was not over after {BENCHMARK_SECONDS:g} s\n{_tail(finished)}")
        if finished.status not in (0, 1) or (finished.status == 1 and not missed):
            raise Failed(f"it ended with status {finished.status}\n{_tail(finished)}")
        return rows

    @cached_property
    def _format(self) -> list[str]:
        """The option for rows of JSON, where it knows that: an older one takes every word for a name."""
        asked = self._python("-m", "benchmarks", "--help")
        return ["--json"] if asked.status == 0 and "--json" in asked.output else []

    def _python(self, *arguments: str, cwd: Path | None = None, seconds: float = ASK_SECONDS) -> Finished:
        # The tree alone is in the path, in front of an editable installation of another one.
        environment = {**os.environ, "PYTHONPATH": str(self.root), "TMPDIR": str(self.temporary)}
        argv = [sys.executable, *arguments]
        return run(argv, cwd=cwd or self.root, environment=environment, told=self.told, seconds=seconds)


def check_out(repository: Path, ref: str, folder: Path) -> str:
    """Put the tree of ``ref`` into ``folder``; return its commit. Git learns of no worktree, so nothing is left of it.

    Raises `BuildError` for what names no commit.
    """
    try:
        commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        with tarfile.open(fileobj=BytesIO(_git(repository, "archive", commit.decode().strip()))) as archive:
            archive.extractall(folder, filter="data")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise BuildError(f"{ref!r} names no commit here" + (f": {said}" if said else "")) from None
    return commit.decode().strip()


def _git(repository: Path, *arguments: str) -> bytes:
    argv = ["git", "-C", str(repository), *arguments]
    # In a session of its own, as a Ctrl-C would look like a failure of it.
    return subprocess.run(argv, capture_output=True, check=True, timeout=ASK_SECONDS, start_new_session=True).stdout


def _unmet(root: Path) -> list[str]:
    """List what the tree depends on and this environment does not have."""
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {})
    wanted = [*project.get("dependencies", ()), *(text for name in _EXTRAS for text in extras.get(name, ()))]
    wrong = []
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"it needs {requirement}, which is not here")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"it needs {requirement}, here is {found}")
    return wrong


def _tail(finished: Finished) -> str:
    lines = finished.complaints.splitlines()[-TAIL:] or ["(it has not said why)"]
    return "\n".join(f"  {line}" for line in lines)

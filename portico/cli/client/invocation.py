"""The invocation of this program, so that the command lines that it shows work as printed."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Invocation:
    """An invocation. ``program``: the words that start it; ``options``: those that lead to the same server again."""

    program: tuple[str, ...]
    options: tuple[str, ...] = ()

    def line(self, *words: str) -> str:
        """Return a command line that runs ``words`` there."""
        return shlex.join([*self.program, *words, *self.options])


def this_program() -> tuple[str, ...]:
    """Return the words that started this process: `portico` if that finds it, else its path, or `python -m portico`."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return sys.executable, "-m", "portico"
    found = shutil.which(path.name)
    return (path.name,) if found and Path(found).resolve() == path.resolve() else (sys.argv[0],)

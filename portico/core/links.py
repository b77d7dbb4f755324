"""The symbolic links that lie on a path."""

from __future__ import annotations

import os
from pathlib import Path

_MOST = 40
"""The most links that the kernel follows on one path."""


def links_on(path: Path) -> list[Path]:
    """Return all links on the way to ``path``, each by a path without links. The end of ``path`` may be missing."""
    found: list[Path] = []
    done = Path(path.anchor)
    left = list(reversed(path.parts[1:]))
    while left and len(found) <= _MOST:
        name = left.pop()
        if name == "..":
            done = done.parent
            continue
        done /= name
        if not done.is_symlink():
            continue
        found.append(done)
        target = Path(os.readlink(done))
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        done = Path(target.anchor) if target.is_absolute() else done.parent
    return found

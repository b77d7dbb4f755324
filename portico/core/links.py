"""The symbolic links that lie on a path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_MOST = 40
"""The most links that the kernel follows on one path."""


def links_on(path: Path) -> list[Path]:
    """Return all links on the way to ``path``, each by a path without links. The end of ``path`` may be missing, and
    what lies behind a folder that this user may not enter is not looked at: no agent gets there either.
    """
    found: list[Path] = []
    done = Path(path.anchor)
    left = list(reversed(path.parts[1:]))
    while left and len(found) <= _MOST:
        name = left.pop()
        if name == "..":
            done = done.parent
            continue
        done /= name
        try:
            target = Path(os.readlink(done))
        except FileNotFoundError:
            continue  # a later `..` may lead back
        except OSError as error:
            if error.errno == errno.EINVAL:  # it is no link
                continue
            break
        found.append(done)
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        done = Path(target.anchor) if target.is_absolute() else done.parent
    return found

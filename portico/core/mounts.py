"""Where paths lead when mounts are looked through: a bind mount shows one folder under two paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a file system, whatever the paths that lead there."""

    device: str
    path: Path

    def holds(self, other: Spot) -> bool:
        """Whether ``other`` is this place, or lies below it."""
        return self.device == other.device and other.path.is_relative_to(self.path)


@dataclass(frozen=True, slots=True)
class Mount:
    """``spot`` is what is to be seen at ``point``."""

    point: Path
    spot: Spot


class Mounts:
    """A table of mounts. Paths that it is asked about have no symbolic links in them."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self._mounts = {mount.point: mount for mount in mounts}  # of two at one point the later one covers

    @classmethod
    def current(cls) -> Self:
        """The mounts that this process sees; an empty table where the system has none to show."""
        try:
            lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
        except OSError:
            return cls(())
        return cls([_parsed(line) for line in lines])

    def spot(self, path: Path) -> Spot:
        for point in (path, *path.parents):
            if (mount := self._mounts.get(point)) is not None:
                return Spot(mount.spot.device, mount.spot.path / path.relative_to(point))
        return Spot("", path)

    def shown_in(self, folder: Path) -> Iterator[Mount]:
        """All that is to be seen in ``folder``: its own part of a file system, and what is mounted below it."""
        yield Mount(folder, self.spot(folder))
        below = str(folder).rstrip("/") + "/"
        for point, mount in self._mounts.items():
            if str(point).startswith(below) and point != folder:
                yield mount


def _parsed(line: bytes) -> Mount:
    """See proc_pid_mountinfo(5): id, parent, device, root, mount point, ..."""
    fields = line.split(b" ")
    return Mount(_path(fields[4]), Spot(fields[2].decode(), _path(fields[3])))


def _path(field: bytes) -> Path:
    """Blanks and the like are written as octal numbers."""
    return Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)))

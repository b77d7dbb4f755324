"""Where paths lead when mounts are looked through: a bind mount shows one folder under two paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

KERNEL = frozenset(
    [
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "mqueue",
        "nfsd",
        "nsfs",
        "proc",
        "pstore",
        "resctrl",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "smackfs",
        "sysfs",
        "tracefs",
    ]
)
"""Kinds of file systems that show the kernel's own things: processes with all that they see, devices, settings."""


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
    """``spot`` is what is to be seen at ``point``, and ``kind`` that of its file system."""

    point: Path
    spot: Spot
    kind: str = ""


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
        return self._at(path).spot

    def _at(self, path: Path) -> Mount:
        for point in (path, *path.parents):
            if (mount := self._mounts.get(point)) is not None:
                spot = Spot(mount.spot.device, mount.spot.path / path.relative_to(point))
                return Mount(path, spot, mount.kind)
        return Mount(path, Spot("", path))

    def shown_in(self, folder: Path) -> Iterator[Mount]:
        """All that is to be seen in ``folder``: its own part of a file system, and what is mounted below it."""
        yield self._at(folder)
        below = str(folder).rstrip("/") + "/"
        for point, mount in self._mounts.items():
            if str(point).startswith(below) and point != folder:
                yield mount


def _parsed(line: bytes) -> Mount:
    """See proc_pid_mountinfo(5): id, parent, device, root, mount point, ..., a hyphen, kind, ..."""
    fields = line.split(b" ")
    kind = fields[fields.index(b"-", 6) + 1].decode(errors="replace")
    return Mount(_path(fields[4]), Spot(fields[2].decode(), _path(fields[3])), kind)


def _path(field: bytes) -> Path:
    """Blanks and the like are written as octal numbers."""
    return Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)))

"""The real places of paths behind mounts: a bind mount shows one folder under two paths."""

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
"""Kinds of file systems that show the kernel's own data: processes and all that they see, devices, settings."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a file system, independent of the paths that lead there."""

    device: str
    path: Path

    def holds(self, other: Spot) -> bool:
        """Tell whether ``other`` is this place, or lies below it."""
        return self.device == other.device and other.path.is_relative_to(self.path)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount, which shows ``spot`` at ``point``. ``kind`` is the kind of its file system."""

    point: Path
    spot: Spot
    kind: str = ""


class Mounts:
    """A table of mounts. The paths passed to its methods must not contain symbolic links."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self._mounts = {mount.point: mount for mount in mounts}  # the later of two at one point covers the other

    @classmethod
    def current(cls) -> Self:
        """Return the mounts that this process sees; an empty table if the system does not list them."""
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
        """Yield everything visible in ``folder``: its own part of a file system, and the mounts below it."""
        yield self._at(folder)
        below = str(folder).rstrip("/") + "/"
        for point, mount in self._mounts.items():
            if str(point).startswith(below) and point != folder:
                yield mount


def _parsed(line: bytes) -> Mount:
    """Parse a line of proc_pid_mountinfo(5): id, parent, device, root, mount point, ..., a hyphen, kind, ..."""
    fields = line.split(b" ")
    kind = fields[fields.index(b"-", 6) + 1].decode(errors="replace")
    return Mount(_path(fields[4]), Spot(fields[2].decode(), _path(fields[3])), kind)


def _path(field: bytes) -> Path:
    """Decode a path, in which blanks and the like are written as octal numbers."""
    return Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)))

"""Control groups, version 2: children are born into their parent's, and one write kills all that is in one.

https://docs.kernel.org/admin-guide/cgroup-v2.html; `cgroup.kill` is there since Linux 5.14.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cgroup_name(folder: Path) -> str:
    """The name of an agent's group."""
    return f"portico-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}"


def own_cgroup() -> Path | None:
    """The group that this process is in, as a folder; None where there is no version 2."""
    if (mount := _mount()) is None:
        return None
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line for line in lines if line.startswith("0::")).removeprefix("0::")
    except (OSError, StopIteration):
        return None
    return mount / path.lstrip("/")


def is_group_of(group: Path, folder: Path) -> bool:
    """Whether this can be the group of the agent whose folder this is. It may be the agent's own word that it is."""
    mount = _mount()
    inside = mount is not None and group.is_relative_to(mount) and ".." not in group.parts
    return inside and group.name == cgroup_name(folder)


def _mount() -> Path | None:
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return Path(next(fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"))
    except (OSError, StopIteration):
        return None


def clear_cgroup(group: Path) -> bool:
    """Kill all that is in this group and its subgroups, and remove it. Whether it is gone; if not, ask again."""
    try:
        with open(os.open(group / "cgroup.kill", os.O_WRONLY), "w") as file:  # which is never made
            file.write("1")
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()  # "busy" until the last process has been reaped
    except FileNotFoundError:
        return not group.exists()
    except OSError:
        return False
    return True

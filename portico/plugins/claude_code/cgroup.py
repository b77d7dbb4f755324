"""Control groups, version 2: children are born into their parent's group, and one write kills everything in a group.

https://docs.kernel.org/admin-guide/cgroup-v2.html; `cgroup.kill` exists since Linux 5.14.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cgroup_name(folder: Path) -> str:
    """Return the name of an agent's group."""
    return f"portico-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}"


def own_cgroup() -> Path | None:
    """Return the group of this process, as a folder; None if version 2 is not there."""
    if (mount := _mount()) is None:
        return None
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line for line in lines if line.startswith("0::")).removeprefix("0::")
    except (OSError, StopIteration):
        return None
    return mount / path.lstrip("/")


def is_group_of(group: Path, folder: Path) -> bool:
    """Tell whether this can be the group of the agent with this folder. The claim may come from the agent itself."""
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
    """Kill everything in this group and its subgroups, and remove it. Return whether it is gone; if not, call again."""
    try:
        with open(os.open(group / "cgroup.kill", os.O_WRONLY), "w") as file:  # this must not create it
            file.write("1")
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()  # "busy" until the last process has been reaped
    except FileNotFoundError:
        return not group.exists()
    except OSError:
        return False
    return True

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
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        mount = next(fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2")
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line for line in lines if line.startswith("0::")).removeprefix("0::")
    except (OSError, StopIteration):
        return None
    return Path(mount, path.lstrip("/"))


def clear_cgroup(group: Path) -> bool:
    """Kill all that is in this group and its subgroups, and remove it. Whether it is gone; if not, ask again."""
    try:
        (group / "cgroup.kill").write_text("1")
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()  # "busy" until the last process has been reaped
    except FileNotFoundError:
        return not group.exists()
    except OSError:
        return False
    return True

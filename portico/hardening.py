"""What a server keeps to itself: its memory and its environment, which hold tokens and the key of the model API."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from pathlib import Path

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>


def close_to_others() -> None:
    """From now on only root may look into this process: /proc/PID/environ, mem, fd, ptrace(2), and core dumps are none.

    What it starts is as open as ever: exec(2) sets this back. No more can be had than the kernel gives.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def blank_environment(names: Iterable[str]) -> None:
    """Overwrite these variables' values where this process was given them, which is what /proc/PID/environ shows.

    `os.environ` is a copy, and keeps them. Programs that are started without an environment of their own find them
    empty.
    """
    if sys.platform != "linux":
        return
    try:
        # Fields 50 and 51 of proc_pid_stat(5); the command name, field 2, may hold blanks.
        fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
        start, end = int(fields[47]), int(fields[48])
    except (OSError, ValueError, IndexError):
        return
    if not 0 < start < end:
        return
    wanted = {name.encode() for name in names}
    place = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and name in wanted:
            ctypes.memset(place + len(name) + 1, 0, len(value))
        place += len(entry) + 1

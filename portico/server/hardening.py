"""What a server keeps to itself: its memory, environment and arguments, which hold tokens and the model API's key."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>
_ARGUMENTS, _ENVIRONMENT = (48, 49), (50, 51)  # fields of proc_pid_stat(5): where each block starts and ends
_BLANK = ord("*")


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
    wanted = {name.encode() for name in names}
    for place, entry in _given(_ENVIRONMENT):
        name, equals, value = entry.partition(b"=")
        if equals and name in wanted:
            ctypes.memset(place + len(name) + 1, 0, len(value))


def blank_arguments(options: Iterable[str]) -> None:
    """Overwrite these options' values where this process was given them, which is what /proc/PID/cmdline shows.

    Everybody can read that, from the start of this process to this call. `sys.argv` is a copy, and keeps them.
    """
    wanted = {option.encode() for option in options}
    before = b""
    for place, argument in _given(_ARGUMENTS):
        option, equals, value = argument.partition(b"=")
        if before in wanted:
            ctypes.memset(place, _BLANK, len(argument))
        elif equals and option in wanted:
            ctypes.memset(place + len(option) + 1, _BLANK, len(value))
        before = argument


def _given(fields: tuple[int, int]) -> Iterator[tuple[int, bytes]]:
    """The texts in a block of memory that the kernel has filled, and where each of them is."""
    if sys.platform != "linux":
        return
    try:
        # proc_pid_stat(5) counts from 1, and the command name, field 2, may hold blanks.
        values = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
        start, end = (int(values[field - 3]) for field in fields)
    except (OSError, ValueError, IndexError):
        return
    if not 0 < start < end:
        return
    place = start
    for text in ctypes.string_at(start, end - start).split(b"\0"):
        yield place, text
        place += len(text) + 1

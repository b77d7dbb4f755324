"""Protection of the process's memory, environment and arguments, which contain tokens and the model API's key."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>
_ARGUMENTS, _ENVIRONMENT = (48, 49), (50, 51)  # fields of proc_pid_stat(5): where each block starts and ends
_BLANK = ord("*")


def close_to_others() -> None:
    """From now on, let only root look into this process: /proc/PID/environ, mem, fd, ptrace(2). No core dumps are
    written.

    Child processes are not protected: exec(2) resets this. The kernel offers no more than this.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def blank_environment(names: Iterable[str]) -> None:
    """Overwrite the values of these variables in the process's own environment, which /proc/PID/environ shows.

    `os.environ` is a copy, and keeps them. Programs that are started without an explicit environment find them empty.
    """
    wanted = {name.encode() for name in names}
    for place, entry in _given(_ENVIRONMENT):
        name, equals, value = entry.partition(b"=")
        if equals and name in wanted:
            ctypes.memset(place + len(name) + 1, 0, len(value))


def blank_arguments(options: Iterable[str]) -> None:
    """Overwrite the values of these options in the process's own arguments, which /proc/PID/cmdline shows.

    Everybody can read them there from the start of this process until this call. `sys.argv` is a copy, and keeps them.
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
    """Yield the texts in a block of memory that the kernel filled, each with its address."""
    if sys.platform != "linux":
        return
    try:
        # proc_pid_stat(5) counts from 1, and the command name, field 2, may contain blanks.
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

"""The arguments of a process: those that every user of the machine can read, and those that are for it alone.

``/proc/PID/cmdline`` is readable for everybody. An open file is not: ``/proc/PID/fd`` is closed to other users.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO


@dataclass(frozen=True, slots=True)
class PrivateArgument:
    """An argument in place of ``data``: it is ``prefix`` and the number of an open file that holds the data."""

    prefix: str
    data: bytes = field(repr=False)


Argument = str | PrivateArgument


@contextmanager
def opened(argv: Sequence[Argument]) -> Iterator[tuple[list[str], list[int]]]:
    """The arguments as a process is given them, and the files that it has to be given with them (``pass_fds``).

    The files are open until the end of the block; a process that has been started in it keeps its own. Raises OSError.
    """
    words: list[str] = []
    numbers: list[int] = []
    with ExitStack() as files:
        for argument in argv:
            if isinstance(argument, str):
                words.append(argument)
                continue
            file = files.enter_context(_unnamed_file())
            file.write(argument.data)
            file.flush()
            file.seek(0)
            words.append(f"{argument.prefix}{file.fileno()}")
            numbers.append(file.fileno())
        yield words, numbers


def _unnamed_file() -> IO[bytes]:
    """A file that has no name: nobody can plant a link in its place, and it is gone with the last who has it open."""
    if hasattr(os, "memfd_create"):
        try:
            return os.fdopen(os.memfd_create("portico"), "w+b")  # the name is for who lists /proc/PID/fd
        except OSError:  # a kernel or a container that does not allow it
            pass
    return tempfile.TemporaryFile()

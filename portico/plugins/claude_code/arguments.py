"""The arguments of a process: those that every user of the machine can read, and private ones.

Everybody can read ``/proc/PID/cmdline``. Other users cannot read an open file: ``/proc/PID/fd`` is closed to them.
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
    """An argument that stands for ``data``: ``prefix`` and the number of an open file that contains the data."""

    prefix: str
    data: bytes = field(repr=False)


Argument = str | PrivateArgument


@contextmanager
def opened(argv: Sequence[Argument]) -> Iterator[tuple[list[str], list[int]]]:
    """Open the private arguments: yield the argv for a process, and the files that it must be given (``pass_fds``).

    The files stay open until the end of the block; a process started inside it keeps its own. Raises OSError.
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
    """Open a file without a name: nobody can plant a link in its place, and it disappears with its last user."""
    if hasattr(os, "memfd_create"):
        try:
            return os.fdopen(os.memfd_create("portico"), "w+b")  # the name shows in /proc/PID/fd
        except OSError:  # a kernel or a container may not allow it
            pass
    return tempfile.TemporaryFile()

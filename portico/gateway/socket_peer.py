"""Who is at the other end of a Unix socket. All agents may be of one user, so that file modes don't tell them apart."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid
_DEEPEST = 64
"""Generations that are looked at; a tool is some five below its agent."""


def is_of(connection: Any, ancestor: int) -> bool:
    """Whether the process that has connected is ``ancestor``, a pid, or descends from it. ``connection``: a socket.

    Nobody can choose their parents: what a process has orphaned belongs to nobody but its namespace's first process.
    Where the system does not tell (it is not Linux) everybody is taken for one of the agent's.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    pid, _, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    for _ in range(_DEEPEST):
        if pid == ancestor:
            return True
        if (parent := _parent(pid)) is None:
            return False
        pid = parent
    return False


def _parent(pid: int) -> int | None:
    """20 µs, where psutil takes over 100."""
    try:
        # proc_pid_stat(5); the command name, field 2, may hold blanks and brackets.
        parent = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):  # it has gone, or is of a namespace that we don't see: pid 0
        return None
    return parent or None

"""Looking into a server from outside, for what /proc shows of it to root alone.

A server closes itself to everybody else, its own user included (`portico/server/hardening.py`). Root may look where it
has CAP_SYS_PTRACE, which plain containers don't have.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psutil
import pytest

_CAP_SYS_PTRACE = 19  # <linux/capability.h>


def _sees_servers() -> bool:
    if sys.platform != "linux":
        return True
    effective = re.search(r"^CapEff:\t([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> _CAP_SYS_PTRACE & 1)


SEES_SERVERS = _sees_servers()
sees_servers = pytest.mark.skipif(
    not SEES_SERVERS, reason="only root with CAP_SYS_PTRACE may look at a server's open files, sockets and calls"
)


def count_descriptors(server: psutil.Process) -> int:
    """Return the number of files that a server has open; 0 for a user who may not look."""
    return server.num_fds() if SEES_SERVERS else 0

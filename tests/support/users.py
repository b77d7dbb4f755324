"""Other users of this machine, as far as a test can be one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.first import possible

STRANGER = 12345
"""The number of a user and of a group that have no entry in the files of this machine."""

NAMELESS = ("unshare", "--user", f"--map-user={STRANGER}", f"--map-group={STRANGER}")
"""Starts the command behind it as the same user, who has another number there, and no name."""

needs_a_nameless_user = pytest.mark.skipif(
    not possible(NAMELESS), reason="this user may not make a user namespace with unshare (util-linux) here"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

# Started as root, so that it need not be readable for the other user.
_CONNECT = """
import os, socket, sys
user, groups = int(sys.argv[2]), [int(group) for group in sys.argv[3:]]
os.setgroups(groups)
os.setresgid(user, user, user)
os.setresuid(user, user, user)
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
"""


def gets_in(path: Path, user: int, groups: Sequence[int] = ()) -> bool:
    """Tell whether this user, with a group of the same number and further ``groups``, may connect to the socket."""
    words = [sys.executable, "-c", _CONNECT, str(path), str(user), *map(str, groups)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
    return done.returncode == 0


@contextmanager
def common_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="portico-common-") as name:
        Path(name).chmod(0o755)
        yield Path(name)

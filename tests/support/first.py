"""Ways to start a server as process 1 of a container, or as a subreaper: it gets the orphans of all others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.support.limits import HANG_SECONDS

# In a plain container: no namespaces of its own, no rights.
_WALL = (
    'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"'
)
_SUBREAPER = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); os.execvp(sys.argv[1], sys.argv[1:])"

CONTAINER = (
    *("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c", _WALL, "sh"),
)
SUBREAPER = (sys.executable, "-c", _SUBREAPER)


def possible(prefix: Sequence[str]) -> bool:
    """Tell whether this machine and this user can start a command so."""
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, timeout=HANG_SECONDS).returncode == 0
    except OSError:
        return False


needs_container = pytest.mark.skipif(
    not possible(CONTAINER), reason="this user may not make a container with unshare and setpriv (util-linux) here"
)

"""Device nodes for sandboxes: root in a sandbox owns the machine's own nodes, and could close them to all others."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from portico.core.directory import Directory

NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
"""The nodes that bubblewrap shows in /dev, with the kernel's numbers (Documentation/admin-guide/devices.txt)."""

log = logging.getLogger(__name__)


def make_devices(data_dir: Path) -> Path | None:
    """Make a folder of such nodes in ``data_dir``; return None if it is not needed, or cannot be made or used."""
    if os.geteuid() != 0:
        return None
    try:
        with Directory.open(Path(os.path.realpath(data_dir))) as data, data.folder("devices") as made:
            made.close_to_others()
            for name in NODES:
                made.remove(name)
        folder = Path(os.path.realpath(data_dir), "devices")
        for name, numbers in NODES.items():
            os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(*numbers))
            (folder / name).chmod(0o666)
        (folder / "null").write_bytes(b"x")  # the file system may not allow the use of devices
    except OSError as error:
        log.warning("root in a sandbox may change the modes of this machine's /dev/null and the like: %s", error)
        return None
    return folder

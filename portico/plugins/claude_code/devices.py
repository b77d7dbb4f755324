"""Device nodes for sandboxes: root in there owns the machine's, and could take them away from everybody else."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from portico.core.directory import Directory

NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
"""What bubblewrap shows in /dev, with the kernel's numbers for it (Documentation/admin-guide/devices.txt)."""

log = logging.getLogger(__name__)


def make_devices(data_dir: Path) -> Path | None:
    """Make a folder of such nodes in ``data_dir``; None where nobody needs them, or they can't be made or used."""
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
        (folder / "null").write_bytes(b"x")  # devices may be of no use in that file system
    except OSError as error:
        log.warning("root in a sandbox may change the modes of this machine's /dev/null and the like: %s", error)
        return None
    return folder

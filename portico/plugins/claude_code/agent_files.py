"""Files in an agent's folder, into which the agent may have put anything."""

from __future__ import annotations

import os
from pathlib import Path

from portico.core.directory import Directory


def open_folder(folder: Path) -> Directory:
    """Open the agent's own folder. Raises OSError, also if it is a link: only the path of its parent may have links."""
    return Directory.open(Path(os.path.realpath(folder.parent), folder.name))

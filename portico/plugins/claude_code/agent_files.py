"""Files in an agent's folder, into which the agent may have put anything."""

from __future__ import annotations

import os
from pathlib import Path

from portico.core.directory import Directory


def open_folder(folder: Path) -> Directory:
    """The agent's own folder. Raises OSError, also where it is a link: only what it lies in may be reached by some."""
    return Directory.open(Path(os.path.realpath(folder.parent), folder.name))

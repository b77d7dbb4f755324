"""Files in an agent's folder, into which the agent may have put anything."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Write it at once or not at all. Raises OSError."""
    # A name nobody can guess: the agent, whose folder this is, could have put a symbolic link there.
    number, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(number, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

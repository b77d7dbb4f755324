"""Files that are made once, and that only their owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_once(path: Path, text: str) -> None:
    """Make ``path`` (mode 0600) with ``text`` in it, all at once, unless it exists by now. Raises OSError."""
    # A link, not a rename: it fails if another start was faster. And there is never an empty or half-written file,
    # which that other start could read.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)

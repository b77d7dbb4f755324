"""The folders in which sessions work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from portico.core.errors import InvalidRequest, NotAllowed


def resolve_cwd(cwd: str, roots: Sequence[Path]) -> Path:
    """The folder that a client names, symlinks and ``..`` resolved; blocks for the file system.

    Raises `NotAllowed` outside of ``roots``, `InvalidRequest` where there is no such folder.
    """
    if not os.path.isabs(cwd) or "\0" in cwd:
        raise InvalidRequest("cwd must be an absolute path", code="invalid_cwd")
    path = Path(os.path.realpath(cwd))
    if not any(path.is_relative_to(os.path.realpath(root)) for root in roots):
        raise NotAllowed("cwd lies outside of the folders that the operator allows (workspace_roots)")
    if not path.is_dir():
        raise InvalidRequest("cwd is not a folder", code="invalid_cwd")
    return path


def make_private(folder: Path) -> None:
    """Make a folder that only we may enter, and those above it; blocks for the file system."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def remove(folder: Path) -> None:
    """Delete a folder with all that is in it; what cannot be deleted stays."""
    shutil.rmtree(folder, ignore_errors=True)

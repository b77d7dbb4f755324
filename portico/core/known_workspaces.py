"""All folders in which a server has ever made workspaces: sessions stay there after `workspace_roots` has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from portico.core.directory import Directory
from portico.core.errors import Unavailable

NAME = "workspace-folders.json"
"""A file in the data folder: a list of paths without links."""

_MAX_BYTES = 1024 * 1024


def known_workspaces(data_dir: Path) -> tuple[Path, ...]:
    """Return the folders of all servers with this data folder.

    Raises `Unavailable` (``data_dir_unusable``), because without the list nobody would hide them.
    """
    try:
        with Directory.open(Path(os.path.realpath(data_dir))) as data:
            found = json.loads(data.read(NAME, _MAX_BYTES))
        return tuple(Path(path) for path in found)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(data_dir, "read", error) from error


def remember_workspaces(data_dir: Path, path: Path) -> None:
    """Add a folder to the list. Raises as `known_workspaces`."""
    known = known_workspaces(data_dir)
    if path in known:
        return
    try:
        with Directory.open(Path(os.path.realpath(data_dir))) as data:
            data.write(NAME, json.dumps([*map(str, known), str(path)]))
    except OSError as error:
        raise _unusable(data_dir, "written", error) from error


def _unusable(data_dir: Path, done: str, error: Exception) -> Unavailable:
    detail = f"the list of the folders with workspaces, {data_dir / NAME}, can't be {done}: {error}"
    return Unavailable(detail, code="data_dir_unusable")

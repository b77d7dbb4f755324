"""The folder in which the server makes workspaces: a real folder of its own user, held open from the start on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from portico.core.directory import Directory
from portico.core.errors import AgentUnavailable, Unavailable
from portico.core.known_workspaces import known_workspaces

OWN_WORKSPACES = ".portico-workspaces"

MOVED, NOT_ALLOWED = "workspace_moved", "workspace_not_allowed"
"""The codes of turns whose agent can't start in the session's workspace."""

ROOTS, DATA_DIR = "workspace_roots_unusable", "data_dir_unusable"
"""The codes of a server start that is refused."""

REMEDY = "move it away, or give it to the server's user, or name another folder first in PORTICO_WORKSPACE_ROOTS"


def own_workspaces(data_dir: Path, roots: Sequence[Path]) -> Path:
    """Return the folder of the workspaces that we make: in the first of ``roots``, apart from folders of clients."""
    return roots[0] if roots[0] == data_dir / "workspaces" else roots[0] / OWN_WORKSPACES


def all_workspaces(data_dir: Path, roots: Sequence[Path]) -> tuple[Path, ...]:
    """Return all folders that may hold our workspaces, without links: older sessions may have had other roots.

    The current folder comes first. ``.portico-workspaces`` is not resolved, because a link with this name is refused.
    Raises `Unavailable` as `known_workspaces`.
    """
    default = data_dir / "workspaces"
    others = [Path(os.path.realpath(root), OWN_WORKSPACES) for root in roots]
    first = others[0] if roots[0] != default else Path(os.path.realpath(default))
    return tuple(dict.fromkeys((first, Path(os.path.realpath(default)), *others, *known_workspaces(data_dir))))


def workspaces_trouble(path: Path) -> str | None:
    """Return the reason why the server can't make its workspaces in ``path``; None if it can or ``path`` is missing."""
    try:
        with Directory.open(path) as found:
            return None if found.owner == os.geteuid() else f"{path} is another user's (uid {found.owner})"
    except NotADirectoryError:
        return f"{path} has to be a real folder, and is a link or a file"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} can't be used: {error.strerror}"


class Workspaces:
    """The folder of the workspaces, opened at ``path``. If an agent replaces it, no more are made: see `fault`."""

    def __init__(self, path: Path, directory: Directory) -> None:
        self.path = path
        self._directory = directory
        self._identity = directory.identity

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the folder, or make it, for this user alone. Raises `Unavailable` (``workspaces_unusable``)."""
        if (trouble := workspaces_trouble(path)) is not None:
            raise _unusable(trouble)
        try:
            directory = Directory.open(path, make=True)
        except OSError as error:
            raise _unusable(f"{path} can't be made: {error.strerror}") from error
        try:
            directory.close_to_others()
        except OSError as error:
            directory.close()
            raise _unusable(f"{path} can't be closed to others: {error.strerror}") from error
        return cls(path, directory)

    def close(self) -> None:
        self._directory.close()

    def fault(self) -> str | None:
        """Return the reason why no more workspaces are made; None while the folder at ``path`` is the one held open.

        The folder is never made again while the server runs: a sandbox hides only the one that existed at its start.
        """
        with suppress(OSError), Directory.open(self.path) as found:
            if found.identity == self._identity:
                return None
        return f"the folder of the workspaces, {self.path}, was moved or deleted: restart the server"

    def make(self, name: str) -> Path:
        """Make a workspace that only our user may enter. Raises `Unavailable` (``workspaces_unusable``)."""
        if (fault := self.fault()) is not None:
            raise Unavailable(fault, code="workspaces_unusable")
        try:
            with self._directory.new(name) as made:
                made.close_to_others()  # whatever the umask
        except OSError as error:
            raise Unavailable(
                f"no workspace can be made in {self.path}: {error.strerror}", code="workspaces_unusable"
            ) from error
        return self.path / name

    def check(self, name: str) -> None:
        """Raise `AgentUnavailable` (``workspace_moved``) if a workspace's path no longer leads to the one we made."""
        with suppress(OSError), self._directory.child(name) as ours, Directory.open(self.path / name) as found:
            if ours.identity == found.identity:
                return
        raise moved()

    def remove(self, name: str) -> None:
        self._directory.remove(name)


def moved(added: Path | None = None) -> AgentUnavailable:
    """Return the error that the session's workspace, or the folder ``added`` beside it, is not there any more."""
    what = "The session's workspace" if added is None else f"The folder {added} (`add_dirs`)"
    return AgentUnavailable(f"{what} is not where it was.", code=MOVED)


def identities(cwd: Path, added: Sequence[Path] = ()) -> list[tuple[int, int]]:
    """Return device and inode of the folders in which an agent works. Raises `AgentUnavailable` as `moved`."""
    found = []
    for place in (cwd, *added):
        try:
            with Directory.open(place) as folder:
                found.append(folder.identity)
        except OSError:
            raise moved(None if place == cwd else place) from None
    return found


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a path itself, of a link its own; None if there is nothing."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _unusable(trouble: str) -> Unavailable:
    return Unavailable(f"{trouble}: {REMEDY}", code="workspaces_unusable")

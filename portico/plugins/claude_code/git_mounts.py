"""The git folders of worktrees and submodules in the sandbox: an agent may write them, but not what makes git run
programs: its hooks, its configuration, and the files that lead git to another configuration.

Whatever of that is missing is made, empty, with the owner and the mode of the git folder: only what exists can be
mounted, and what is not mounted an agent could make.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from portico.core.directory import Directory
from portico.core.git_folders import FILES, FOLDERS, GitFolder

_POINTERS = ("commondir", "gitdir", "config.worktree")
"""The files in the git folder of a worktree that lead git elsewhere."""


def unseen(folders: Iterable[GitFolder], places: Sequence[Path]) -> list[GitFolder]:
    """Return those that an agent who works in ``places`` does not see anyway, the outer ones first."""
    found = [each for each in folders if not any(map(each.common.is_relative_to, places))]
    return sorted(found, key=lambda each: len(each.common.parts))


def mounts(folders: Sequence[GitFolder]) -> Iterator[tuple[Path, bool]]:
    """Yield what to mount, in this order, and whether the agent may write it. All of it exists after `make_missing`.

    The folders on the way to what it may not write are mounted too, so that it can't move them.
    """
    for common in dict.fromkeys(each.common for each in folders):
        may_write = os.access(common, os.W_OK)
        yield common, may_write
        if may_write:
            yield common / "objects", True
            yield common / "objects" / "info", True
            yield common / "objects" / "info" / "alternates", False
            for name in (*FOLDERS, *FILES):
                yield common / name, False
        for each in folders:
            if each.common == common != each.own and may_write:
                yield each.own, True
                for name in _POINTERS:
                    yield each.own / name, False
    for each in folders:
        yield each.place / ".git", False


def make_missing(folders: Iterable[GitFolder]) -> None:
    """Make what is missing of all that. Raises OSError."""
    for each in folders:
        if not os.access(each.common, os.W_OK):
            continue
        with Directory.open(each.common) as common:
            for name in FOLDERS:
                common.make_alike(name, folder=True)
            for name in FILES:
                common.make_alike(name, folder=False)
            with common.child("objects") as objects:
                objects.make_alike("info", folder=True)
                with objects.child("info") as info:
                    info.make_alike("alternates", folder=False)
        if each.own != each.common:
            with Directory.open(each.own) as own:
                own.make_alike("config.worktree", folder=False)

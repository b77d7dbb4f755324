"""The git folder of a worktree or a submodule, which lies outside of the folder in which a session works.

A file ``.git`` there names the git folder. Agents can write such a file, so it counts only if the git folder names the
file, too: ``git worktree add`` and ``git submodule add`` write both. Nothing here follows a symbolic link.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portico.core.directory import Directory

FOLDERS = ("hooks", "info", "modules", "worktrees")
FILES = ("config", "config.worktree")
"""The entries of a git folder that no agent may write if others use the folder too: they make git run programs."""

_MAX_POINTER = 8192
_MAX_CONFIG = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GitFolder:
    """The git folder ``own`` of the folder ``place``. ``common`` is the one that all worktrees of the repository share;
    a submodule shares nothing, so its own is the common one.
    """

    place: Path
    own: Path
    common: Path


def find_git_folder(place: Path) -> GitFolder | None:
    """Return the git folder of ``place``, a path without links, if it lies outside and each names the other; else None.

    Both must belong to the user who owns ``place``, or to this process's.
    """
    try:
        with Directory.open(place) as folder:
            own = pointer(folder, ".git", place, prefix="gitdir: ")
            owners = {folder.owner, os.geteuid()}
        if own is None:
            return None
        with Directory.open(own) as folder:
            common = pointer(folder, "commondir", own)
            if common is None:
                common, back = own, list(_work_trees(folder, own))
            else:
                back = [path for path in [pointer(folder, "gitdir", own)] if path is not None]
                if own.parent != common / "worktrees":
                    return None
            trusted = folder.owner in owners
        with Directory.open(common) as folder:
            trusted = trusted and folder.owner in owners and _is_git_folder(folder)
    except OSError:
        return None
    named = back == ([place] if own == common else [place / ".git"])
    apart = not common.is_relative_to(place) and not place.is_relative_to(common)
    return GitFolder(place, own, common) if named and trusted and apart else None


def pointer(folder: Directory, name: str, base: Path, prefix: str = "") -> Path | None:
    """Return the path in the file ``name``, relative to ``base``; None if there is no such file, or it has no path."""
    if not folder.has(name) or not stat.S_ISREG(folder.status(name).st_mode):
        return None
    text = os.fsdecode(folder.read(name, _MAX_POINTER)).rstrip("\r\n")
    if not text.startswith(prefix) or len(text) == len(prefix) or re.search(r"[\0\r\n]", text):
        return None
    return Path(os.path.normpath(base / text.removeprefix(prefix)))


def _work_trees(folder: Directory, base: Path) -> Iterator[Path]:
    """Yield the folder that ``core.worktree`` names in git's configuration, as far as it is written plainly."""
    for name in ("config", "config.worktree"):
        if not folder.has(name):
            continue
        section = ""
        for line in os.fsdecode(folder.read(name, _MAX_CONFIG)).splitlines():
            if header := re.fullmatch(r"\s*\[\s*([\w.-]+)\s*\]\s*", line):
                section = header[1].lower()
            elif line.lstrip().startswith("["):
                section = ""
            elif section == "core" and (found := re.fullmatch(r'\s*worktree\s*=\s*("?)([^"\\#;]+)\1\s*', line, re.I)):
                yield Path(os.path.normpath(base / found[2].strip()))


def _is_git_folder(folder: Directory) -> bool:
    """Tell whether it looks like the git folder of a whole repository, in which none of `FOLDERS` and `FILES` is a
    link.
    """
    with folder.child("objects") as objects:
        folder.child("refs").close()
        inner = objects.child("info") if objects.has("info") else None
        if inner is not None:
            with inner:
                if _is_link(inner, "alternates"):
                    return False
    plain = not any(_is_link(folder, name) for name in (*FOLDERS, *FILES))
    return plain and not folder.has("commondir") and stat.S_ISREG(folder.status("HEAD").st_mode)


def _is_link(folder: Directory, name: str) -> bool:
    return folder.has(name) and stat.S_ISLNK(folder.status(name).st_mode)

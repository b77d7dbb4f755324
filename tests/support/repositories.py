"""Git repositories with a worktree and a submodule, as `git` itself makes them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no program git")

PERSON = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "protocol.file.allow=always")


def git(cwd: Path, *arguments: str) -> str:
    """Run git without any configuration but that of the repository; return its output."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", *PERSON, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True, slots=True)
class Repositories:
    """`tree` and `other` are worktrees of `repo`, on the branches of their names; `sub` is a submodule of it."""

    repo: Path
    tree: Path
    other: Path
    sub: Path

    @property
    def shared(self) -> Path:
        return self.repo / ".git"


def repositories(root: Path) -> Repositories:
    """Make them in ``root``, which is made too."""
    made = Repositories(root / "repo", root / "tree", root / "other", root / "repo" / "sub")
    for name in ("repo", "lib"):
        (root / name).mkdir(parents=True)
        git(root / name, "init", "-q")
        git(root / name, "commit", "-q", "--allow-empty", "-m", "one")
    git(made.repo, "branch", "packed")
    git(made.repo, "pack-refs", "--all")
    git(made.repo, "submodule", "--quiet", "add", str(root / "lib"), "sub")
    git(made.repo, "commit", "-qm", "two")
    for place in (made.tree, made.other):
        git(made.repo, "worktree", "add", "-q", str(place), "-b", place.name)
    return made

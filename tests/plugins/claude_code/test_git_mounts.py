"""A worktree or a submodule in the sandbox: git works there, and nothing that makes git run programs is changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from portico.core.errors import AgentUnavailable
from portico.core.git_folders import find_git_folder
from portico.core.short import remove_short
from portico.plugins.claude_code.environment import make_folders
from portico.plugins.claude_code.sandbox import Sandbox
from tests.support.repositories import Repositories, git, needs_git, repositories
from tests.support.sandbox import run_wrapped, working_sandbox

pytestmark = [pytest.mark.anyio, needs_git]

ME = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b.example GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b.example HOME=/"


class Working:
    """Runs shell commands as an agent would that works in ``cwd``, and in ``added``."""

    def __init__(self, sandbox: Sandbox, folder: Path, cwd: Path, *added: Path) -> None:
        self.sandbox, self.folder, self.cwd, self.added = sandbox, folder, cwd, added
        self.git = [found for place in (cwd, *added) if (found := find_git_folder(place)) is not None]
        runtime = make_folders(folder)
        if runtime.parent != folder:
            remove_short(runtime)

    async def __call__(self, command: str) -> str:
        argv = ["/bin/sh", "-c", f"{ME}; {command}"]
        wrapped = self.sandbox.wrap(argv, self.folder, self.cwd, added=self.added, git=self.git)
        done = await run_wrapped(wrapped, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]})
        return done.stdout.decode()


@pytest.fixture
def made(tmp_path: Path) -> Repositories:
    return repositories(tmp_path / "roots")


@pytest.fixture
async def working(made: Repositories, tmp_path: Path) -> Working:
    """In the worktree ``tree``."""
    sandbox = await working_sandbox(roots=(tmp_path / "roots",))
    return Working(sandbox, tmp_path / "agent", made.tree)


def other(working: Working, cwd: Path, *added: Path) -> Working:
    return Working(working.sandbox, working.folder.with_name("other-agent"), cwd, *added)


WORK = """set -e
echo 1 > f; git add f; git commit -qm one-more
echo 2 > f; git stash -q; git stash pop -q; git checkout -q -- f
git checkout -q -b side HEAD~1; echo g > g; git add g; git commit -qm side; git rebase -q -
git checkout -q -; git merge -q side; git branch -D side; git tag t; git tag -d t
git pack-refs --all; git log --format=%s -1; echo all done"""


async def test_git_works_in_a_worktree_and_the_repository_has_what_was_done(
    working: Working, made: Repositories
) -> None:
    said = await working(WORK + "; git branch -D packed")
    assert "all done" in said and "Deleted branch packed" in said, said
    assert git(made.repo, "log", "--format=%s", "-1", "tree") == "side\n"
    assert "packed" not in git(made.repo, "branch", "--list")
    assert git(made.repo, "status", "--porcelain") == git(made.tree, "status", "--porcelain") == ""
    git(made.repo, "fsck", "--strict")
    assert git(made.repo, "worktree", "list").count("\n") == 3


async def test_git_works_in_a_submodule_and_shows_nothing_of_what_is_around_it(
    working: Working, made: Repositories
) -> None:
    inside = other(working, made.sub)
    assert "all done" in await inside(WORK)
    assert git(made.sub, "log", "--format=%s", "-1") == "side\n"
    assert "No such file" in await inside(f"cat {made.shared}/config")
    assert "No such file" in await inside(f"ls {made.repo}/.gitmodules")


@pytest.mark.parametrize("where", ["worktree", "submodule"])
async def test_nothing_that_makes_git_run_programs_is_changed(working: Working, made: Repositories, where: str) -> None:
    inside = working if where == "worktree" else other(working, made.sub)
    (folder,) = inside.git
    common, own = folder.common, folder.own
    before = {path: path.read_bytes() for name in ("config", "hooks", "info") for path in files(common / name)}
    closed = ["config", "config.worktree", "hooks/post-commit", "info/attributes", "modules/x", "worktrees/x"]
    paths = [common / name for name in [*closed, "objects/info/alternates"]]
    paths += [own / name for name in ("commondir", "gitdir", "config.worktree") if own != common]
    for path in [*paths, inside.cwd / ".git"]:
        said = await inside(f"echo x > {path}; mkdir -p {path}/y; rm -rf {path}; mv -T {path} {path}.aside")
        assert said.count("Read-only file system") + said.count("busy") >= 2, (path, said)
    for name in ("hooks", "info", "modules", "worktrees", "objects", "objects/info"):
        rename = f"perl -e 'rename $ARGV[0], $ARGV[1] or print $!' {common}/{name} {common}/{name}-aside"
        assert "busy" in await inside(rename), name
    said = await inside("git config core.fsmonitor /tmp/evil; git config --worktree core.hooksPath /tmp")
    assert "could not write config file" in said
    after = {path: path.read_bytes() for name in ("config", "hooks", "info") for path in files(common / name)}
    assert after == before
    assert git(made.repo, "status", "--porcelain") == ""


def files(path: Path) -> list[Path]:
    return [each for each in (path, *path.rglob("*")) if each.is_file()]


async def test_other_worktrees_and_submodules_are_not_changed(working: Working, made: Repositories) -> None:
    shared = made.shared
    for name in ("worktrees/other/HEAD", "worktrees/other/commondir", "modules/sub/config", "modules/sub/HEAD"):
        assert "Read-only" in await working(f"echo x > {shared}/{name}"), name
    assert "No such file" in await working(f"ls {made.other}")
    both = other(working, made.tree, made.other)
    commit = "commit --allow-empty -qm x"
    assert "done" in await both(f"git {commit} && git -C {made.other} {commit} && echo done")
    for name in ("worktrees/other/commondir", "worktrees/tree/commondir", "hooks/x", "worktrees/new"):
        assert "Read-only" in await both(f"echo x > {shared}/{name}"), name


async def test_what_is_missing_is_made_so_that_no_agent_makes_it(working: Working, made: Repositories) -> None:
    for name in ("hooks", "info"):
        for each in files(made.shared / name):
            each.unlink()
        (made.shared / name).rmdir()
    made.shared.chmod(0o750)
    assert "Read-only" in await working(f"echo evil > {made.shared}/hooks/post-commit")
    assert (made.shared / "hooks").stat().st_mode & 0o777 == 0o750, "as the others are"
    assert list((made.shared / "hooks").iterdir()) == []
    git(made.repo, "commit", "-qm", "on", "--allow-empty")
    git(made.repo, "config", "extensions.worktreeConfig", "true")
    git(made.repo, "status")


async def test_one_that_is_swapped_for_a_link_is_not_mounted(
    working: Working, made: Repositories, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("x")
    made.shared.rename(made.repo / "aside")
    made.shared.symlink_to(secret)
    with pytest.raises((AgentUnavailable, OSError)):
        await working("cat .git")
    made.shared.unlink()
    (made.repo / "aside").rename(made.shared)
    argv = working.sandbox.wrap(["/bin/sh", "-c", "echo in"], working.folder, working.cwd, git=working.git)
    (made.shared / "hooks").rename(made.shared / "hooks-aside")  # after the look
    (made.shared / "hooks").symlink_to(secret)
    done = await run_wrapped(argv, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]})
    assert done.returncode != 0 and b"in\n" not in done.stdout

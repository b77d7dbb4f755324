"""The git folder of a folder is one that names the folder as well, and nothing that an agent has written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portico.core.boundary import Boundary
from portico.core.git_folders import GitFolder, find_git_folder
from tests.support.repositories import Repositories, git, needs_git, repositories

pytestmark = needs_git


@pytest.fixture
def made(tmp_path: Path) -> Repositories:
    return repositories(tmp_path / "roots")


def test_of_a_worktree_of_a_submodule_and_of_both_together(made: Repositories, tmp_path: Path) -> None:
    shared, modules = made.shared, made.shared / "modules" / "sub"
    assert find_git_folder(made.tree) == GitFolder(made.tree, shared / "worktrees" / "tree", shared)
    assert find_git_folder(made.sub) == GitFolder(made.sub, modules, modules)
    nested = tmp_path / "roots" / "nested"
    git(made.sub, "worktree", "add", "-q", str(nested), "-b", "nested")
    assert find_git_folder(nested) == GitFolder(nested, modules / "worktrees" / "nested", modules)
    git(made.tree, "submodule", "--quiet", "update", "--init")
    own = shared / "worktrees" / "tree" / "modules" / "sub"
    assert find_git_folder(made.tree / "sub") == GitFolder(made.tree / "sub", own, own)


def test_a_folder_whose_git_folder_lies_in_it_or_that_has_none_shares_nothing(made: Repositories) -> None:
    assert find_git_folder(made.repo) is None
    assert find_git_folder(made.repo.parent) is None
    assert find_git_folder(made.repo / "nothing") is None


def test_what_an_agent_writes_into_its_folder_opens_nothing(made: Repositories, tmp_path: Path) -> None:
    """The other side does not name the folder, whatever a file there says."""
    work = tmp_path / "roots" / "work"
    work.mkdir()
    (work / "link").symlink_to(made.shared)
    fake = work / "fake" / "worktrees" / "x"
    fake.mkdir(parents=True)
    (fake / "gitdir").write_text(f"{work}/.git\n")
    (fake / "commondir").write_text(f"{made.shared}\n")
    (fake / "HEAD").write_text("ref: refs/heads/x\n")
    plain = work / "plain"
    git(work, "init", "-q", str(plain))
    (plain / ".git" / "config").write_text(f"[core]\n\tworktree = {work}\n")
    pointers = (
        f"gitdir: {made.shared}",
        f"gitdir: {made.shared}/worktrees/tree",
        f"gitdir: {made.shared}/modules/sub",
        f"gitdir: {work}/link/worktrees/tree",
        f"gitdir: {work}/link",
        f"gitdir: {fake}",  # whose common folder is not above it
        f"gitdir: {plain}/.git",  # it names the folder, and lies in it: there is nothing to open
        "gitdir: /",
        "gitdir: ../repo/.git",
        "gitdir: ",
        "no pointer",
        f"gitdir: {made.shared}\0/x",
        "gitdir: " + "x" * 100_000,
    )
    for text in pointers:
        (work / ".git").write_text(text)
        assert find_git_folder(work) is None, text[:80]
    (work / ".git").unlink()
    (work / ".git").symlink_to(made.tree / ".git")
    assert find_git_folder(work) is None
    (work / ".git").unlink()
    os.mkfifo(work / ".git")
    assert find_git_folder(work) is None


def test_one_that_was_moved_or_that_leads_elsewhere_does_not_count(made: Repositories, tmp_path: Path) -> None:
    moved = tmp_path / "roots" / "moved"
    made.tree.rename(moved)
    assert find_git_folder(moved) is None, "git names the old place"
    own = made.shared / "worktrees" / "other"
    (own / "commondir").write_text(f"{tmp_path}\n")
    assert find_git_folder(made.other) is None
    (own / "commondir").write_text("../..\n")
    assert find_git_folder(made.other) is not None
    (made.shared / "commondir").write_text("/tmp\n")  # git would take its configuration from there
    assert find_git_folder(made.other) is None
    (made.shared / "commondir").unlink()
    for name in ("hooks", "config"):
        (made.shared / name).rename(made.shared / "aside")
        (made.shared / name).symlink_to("aside")
        assert find_git_folder(made.other) is None, "a link in its place could be replaced"
        (made.shared / name).unlink()
        (made.shared / "aside").rename(made.shared / name)
    assert find_git_folder(made.other) is not None


def test_one_of_another_user_does_not_count(made: Repositories) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(made.shared, 12345, 12345)
    assert find_git_folder(made.tree) is None


def test_it_must_lie_where_a_session_may_work(made: Repositories, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert Boundary(data, [tmp_path / "roots"]).git_folder(made.tree) is not None
    for roots in ([made.tree], [made.tree, made.sub]):
        assert Boundary(data, roots).git_folder(made.tree) is None, "its repository lies outside of the roots"
    inside = repositories(tmp_path / "data" / "agents")
    outside = tmp_path / "roots" / "of-agents"
    git(inside.repo, "worktree", "add", "-q", str(outside), "-b", "x")
    assert find_git_folder(outside) is not None
    assert Boundary(data, [tmp_path]).git_folder(outside) is None, "it is the server's own"

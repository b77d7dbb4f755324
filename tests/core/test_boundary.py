"""The folders that a session may work in, and those that look like one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from portico.core.access import others_may_enter
from portico.core.boundary import Boundary
from portico.core.errors import AgentUnavailable, NotAllowed
from portico.core.links import links_on
from portico.core.roots import root_troubles
from portico.core.short import short_places

ROOT = Path(__file__).parents[2]

LOOK = """
import json, sys
from pathlib import Path
from portico.core.boundary import Boundary
from portico.core.errors import NotAllowed
data, roots, files, asked = json.loads(sys.argv[1])
boundary = Boundary(Path(data), [Path(root) for root in roots], [Path(file) for file in files])
for cwd in asked:
    try:
        boundary.resolve(cwd)
        print("allowed")
    except NotAllowed:
        print("refused")
"""


class Place:
    """A data folder, and a root in which the server has made a workspace."""

    def __init__(self, base: Path) -> None:
        self.base, self.data, self.root = base, base / "data", base / "root"
        self.own = self.root / ".portico-workspaces" / "one"
        for folder in (self.data / "agents", self.data / "workspaces", self.own, self.root / "project"):
            folder.mkdir(parents=True)

    def boundary(self, *roots: Path, files: Sequence[Path] = (), private: bool = False) -> Boundary:
        return Boundary(self.data, roots or (self.root,), files, private=private)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refused(boundary: Boundary, cwd: Path) -> bool:
    try:
        boundary.resolve(str(cwd))
    except NotAllowed:
        return True
    return False


def test_what_others_keep_is_refused_by_each_of_its_names(place: Place) -> None:
    (place.root / "link").symlink_to(place.own)
    (place.base / "alias").symlink_to(place.root)
    boundary = place.boundary(place.root, place.base / "other", place.data / "workspaces")
    for cwd in (
        place.own,
        place.own.parent,
        place.root / "link",
        place.root / "project" / ".." / place.own.parent.name / "one",
        place.base / "alias" / place.own.parent.name,
        place.data / "workspaces",  # where those of a server with other settings lie
        place.data,
        place.base,
    ):
        assert refused(boundary, cwd), cwd
    for cwd in (place.root, place.root / "project", place.base / "alias" / "project"):
        assert not refused(boundary, cwd), cwd


def test_workspaces_of_any_server_are_refused(place: Place) -> None:
    others = place.root / "project" / ".portico-workspaces"
    (others / "one" / "deep").mkdir(parents=True)
    boundary = place.boundary()
    assert all(refused(boundary, cwd) for cwd in (others, others / "one", others / "one" / "deep"))
    assert not refused(boundary, others.parent)


def test_no_root_opens_the_folders_of_agents(place: Place) -> None:
    for name in ("agents/a", "devices", "projects/p"):
        (place.data / name).mkdir(parents=True, exist_ok=True)
    boundary = place.boundary(place.root, *(place.data / name for name in ("agents", "devices", "projects")))
    for name in ("agents", "agents/a", "devices"):
        assert refused(boundary, place.data / name), name
    assert not refused(boundary, place.data / "projects") and not refused(boundary, place.data / "projects" / "p")


def test_agents_that_lie_behind_a_link_are_guarded_there(place: Place) -> None:
    disk = place.root / "disk"
    disk.mkdir()
    (place.data / "agents").rename(disk / "agents")
    (place.data / "agents").symlink_to(disk / "agents")
    (disk / "agents" / "a").mkdir()
    boundary = place.boundary()
    for cwd in (disk, disk / "agents", disk / "agents" / "a", place.root):
        assert refused(boundary, cwd), cwd
    assert not refused(boundary, place.root / "project")
    assert list(root_troubles(place.data, [place.root], private=False)) == []
    (place.root / "project" / "link").symlink_to(disk)
    (place.data / "agents").unlink()
    (place.data / "agents").symlink_to(place.root / "project" / "link" / "agents")
    (trouble,) = root_troubles(place.data, [place.root], private=False)
    assert trouble.fatal and str(place.root / "project" / "link") in trouble.text


def test_a_root_is_what_it_was_at_the_start(place: Place) -> None:
    """An agent that works above it may put a link in its place."""
    inner = place.root / "inner"
    (inner / "project").mkdir(parents=True)
    (place.base / "elsewhere" / "project").mkdir(parents=True)
    boundary = place.boundary(place.root, inner)
    inner.rename(place.root / "was")
    inner.symlink_to(place.base / "elsewhere")
    assert refused(boundary, inner) and refused(boundary, inner / "project")


def test_a_link_that_leads_to_a_file_of_the_servers_is_guarded_as_the_file_is(place: Place) -> None:
    for name in ("keys", "links"):
        (place.root / name).mkdir()
    (place.root / "keys" / "key.pem").touch()
    (place.root / "links" / "key.pem").symlink_to("../keys/key.pem")
    boundary = place.boundary(files=[place.root / "links" / "key.pem"])
    assert refused(boundary, place.root / "keys") and refused(boundary, place.root / "links")
    assert refused(boundary, place.root)
    assert not refused(boundary, place.root / "project")


def test_short_folders_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place.root))
    for short in short_places(place.data / "agents")[:2]:
        (short / "one").mkdir(parents=True)
        assert refused(place.boundary(), short) and refused(place.boundary(), short / "one")
    assert not refused(place.boundary(), place.root)  # where a sandbox hides them


def test_at_the_start_of_an_agent_it_is_looked_at_again(place: Place) -> None:
    boundary = place.boundary()
    project = place.root / "project"
    boundary.check(project)
    boundary.check(place.root)
    project.rename(place.root / "was")
    project.symlink_to(place.data)
    with pytest.raises(AgentUnavailable) as caught:
        boundary.check(project)
    assert caught.value.code == "workspace_moved"
    (place.data / "keys").mkdir()
    with pytest.raises(AgentUnavailable) as caught:
        boundary.check(place.data / "keys")
    assert caught.value.code == "workspace_not_allowed"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root may mount")
def test_a_mount_shows_nothing_that_its_folder_does_not(place: Place) -> None:
    """Bind mounts of a workspace, of what holds the workspaces, of the data folder and what lies deep in it."""
    (place.own / "deep").mkdir()
    (place.data / "agents" / "a").mkdir()
    shown = {
        "own": place.own,
        "deep": place.own / "deep",
        "root": place.root,
        "data": place.data,
        "agent": place.data / "agents" / "a",
        "holder": place.base,
        "project": place.root / "project",
    }
    mounts = place.base / "mounts"
    for name in (*shown, "inside"):
        (mounts / name / "x").mkdir(parents=True)
    orders = [f"mount --bind {source} {mounts / name}" for name, source in shown.items()]
    orders.append(f"mount --bind {place.data} {mounts / 'inside' / 'x'}")
    asked = [str(mounts / name) for name in (*shown, "inside")] + [str(place.root), str(place.root / "project")]
    said = json.dumps([str(place.data), [str(place.root), str(mounts)], [], asked])
    assert in_mounts(orders, said) == ["refused"] * 6 + ["allowed", "refused", "allowed", "allowed"]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root may mount")
def test_nobody_works_where_the_kernels_own_is_mounted(place: Place) -> None:
    """As in a folder that somebody prepares for chroot(2): /proc leads from there into all other sandboxes."""
    shown = ("outer/chroot/proc", "link/dev")
    for name in (*shown, "plain/proc"):
        (place.root / name).mkdir(parents=True)
    orders = [f"mount -t proc proc {place.root / shown[0]}", f"mount --bind /proc/sys {place.root / shown[1]}"]
    asked = [str(place.root / name) for name in ("outer", "outer/chroot", *shown, "link", "plain", "plain/proc", ".")]
    said = json.dumps([str(place.data), [str(place.root), "/proc"], [], [*asked, "/proc", "/proc/sys/kernel"]])
    assert in_mounts(orders, said) == ["refused"] * 5 + ["allowed"] * 2 + ["refused"] * 3


def in_mounts(orders: Sequence[str], said: str) -> list[str]:
    """Return what `LOOK` prints after these commands."""
    script = " && ".join([*orders, f'exec \'{sys.executable}\' -c "$0" "$1"'])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, LOOK, said],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("mode", [0o755, 0o711, 0o701])
def test_others_enter_where_each_folder_on_the_way_lets_them(tmp_path: Path, mode: int) -> None:
    top = tmp_path / "top"
    (top / "root").mkdir(parents=True)
    closed = others_may_enter(tmp_path) is False
    top.chmod(mode)
    (top / "root").chmod(0o777)
    assert others_may_enter(top / "root") is not closed
    top.chmod(0o700)
    assert not others_may_enter(top / "root")


def test_links_are_found_wherever_they_lie_on_a_path(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "first").symlink_to("real")
    (tmp_path / "real" / "inner" / "second").symlink_to(tmp_path / "first")
    path = tmp_path / "first" / "inner" / "second" / "missing"
    here = [link for link in links_on(path) if link.is_relative_to(tmp_path)]
    assert here == [tmp_path / "first", tmp_path / "real" / "inner" / "second", tmp_path / "first"]
    (tmp_path / "loop").symlink_to("loop")
    assert len(links_on(tmp_path / "loop")) < 100


def test_links_behind_what_nobody_may_enter_or_name_are_not_looked_for(tmp_path: Path) -> None:
    """Such as a folder of root's in the PATH of another user's server."""
    (tmp_path / "link").symlink_to("closed")
    (tmp_path / "closed").mkdir(mode=0)
    here = [tmp_path / "link"]
    for path in (tmp_path / "link" / "bin" / "any", tmp_path / "link" / ("x" * 300) / "any"):
        assert [link for link in links_on(path) if link.is_relative_to(tmp_path)] == here


def test_a_root_behind_a_link_that_agents_may_change_is_refused(place: Place) -> None:
    (place.root / "link").symlink_to(place.root / "project")
    (trouble,) = [each for each in root_troubles(place.data, [place.root, place.root / "link"], private=False)]
    assert trouble.fatal and str(place.root / "link") in trouble.text and str(place.root / "project") in trouble.remedy
    (place.base / "link").symlink_to(place.root)
    assert list(root_troubles(place.data, [place.base / "link"], private=False)) == []

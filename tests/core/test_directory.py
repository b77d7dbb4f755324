"""Directories that are held open, in which somebody leaves links, pipes, and trees that are hard to delete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from portico.core.directory import Directory

ROOT = Path(__file__).parents[2]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir(mode=0o755)
    (folder / "file").write_text("mine")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


def unchanged(outside: Path) -> bool:
    return (
        os.listdir(outside) == ["file"]
        and (outside / "file").read_text() == "mine"
        and outside.stat().st_mode & 0o777 == 0o755
    )


def test_no_component_of_a_path_may_be_a_link(base: Path, outside: Path) -> None:
    (base / "link").symlink_to(outside)
    for path in (base / "link", base / "link" / "new", base / "link" / ".." / "base"):
        with pytest.raises(OSError):
            Directory.open(path, make=True)
    with Directory.open(base / "a" / "b", make=True):
        assert (base / "a" / "b").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileNotFoundError):
        Directory.open(base / "missing")
    assert unchanged(outside)


def test_what_it_was_opened_as_it_stays(base: Path, outside: Path) -> None:
    with Directory.open(base) as held:
        base.rename(base.with_name("was"))
        base.symlink_to(outside)
        held.folder("made").close()
        held.write("written", "x")
        held.close_to_others()
        held.remove("file")
        assert sorted(os.listdir(base.with_name("was"))) == ["made", "written"]
    assert unchanged(outside)


def test_links_in_the_place_of_folders_and_files_are_replaced(base: Path, outside: Path) -> None:
    for name in ("folder", "file", "written", "removed"):
        (base / name).symlink_to(outside)
    with Directory.open(base) as held:
        with held.folder("folder") as made:
            made.close_to_others()
        held.file("file")
        held.write("written", "x")
        held.remove("removed")
        with pytest.raises(FileExistsError):
            held.new("folder")
        (base / "link").symlink_to(outside)
        with pytest.raises(NotADirectoryError):
            held.child("link")
    assert (base / "folder").is_dir() and (base / "file").is_file() and (base / "written").read_text() == "x"
    assert sorted(path.name for path in base.iterdir() if path.is_symlink()) == ["link"]
    assert unchanged(outside)


def test_only_files_are_read_and_no_pipe_is_waited_for(base: Path, outside: Path) -> None:
    os.mkfifo(base / "pipe")
    (base / "link").symlink_to(outside / "file")
    (base / "endless").symlink_to("/dev/zero")
    (base / "long").write_text("x" * 1000)
    with Directory.open(base) as held:
        for name in ("pipe", "link", "endless", "."):
            with pytest.raises(OSError):
                held.read(name, 10)
        assert held.read("long", 10) == b"x" * 10


@pytest.fixture
def tree(base: Path) -> Iterator[Path]:
    """One that the next run of tests could not clear away, should it be left."""
    folder = base / "tree"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


def test_a_tree_is_deleted_however_deep_and_closed_it_is(base: Path, tree: Path, outside: Path) -> None:
    (tree / "out").symlink_to(outside)
    (tree / "closed" / "inner").mkdir(parents=True)
    (tree / "closed" / "inner" / "file").write_text("x")
    (tree / "closed" / "inner").chmod(0o500)
    (tree / "closed").chmod(0)
    place = os.open(tree, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() * 2):
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    with Directory.open(base) as held:
        held.remove("tree")
        held.remove("missing")
        assert held.names() == []
    assert unchanged(outside)


REMOVE = """
import sys
from pathlib import Path
from portico.core.directory import Directory
with Directory.open(Path(sys.argv[1])) as held:
    for name in sys.argv[2:]:
        held.remove(name)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root may mount")
def test_what_is_mounted_in_a_tree_is_neither_deleted_nor_changed(base: Path, tree: Path, outside: Path) -> None:
    (outside / "inner").mkdir(mode=0o755)
    (outside / "inner" / "file").write_text("mine")
    points = [tree / "folder", tree / "deep" / "down" / "folder", base / "itself"]
    for point in points:
        point.mkdir(parents=True)
    (tree / "deep" / "file").write_text("x")
    (tree / "deep" / "mounted").touch()
    orders = [f"mount --bind '{outside}' '{point}'" for point in points]
    orders.append(f"mount --bind '{outside}/file' '{tree}/deep/mounted'")
    script = " && ".join([*orders, f'exec \'{sys.executable}\' -c "$0" "$@"'])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, REMOVE, str(base), "tree", "itself"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    for folder in (outside, outside / "inner"):
        assert folder.stat().st_mode & 0o777 == 0o755 and (folder / "file").read_text() == "mine"
    assert not list(base.rglob("file"))

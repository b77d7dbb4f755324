"""Comparing two builds of a small repository whose benchmarks print what they are told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.agents import gone_soon
from tests.support.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]
COMPARE = (
    "import sys, pathlib; from benchmarks.compare import main; sys.exit(main(sys.argv[2:], pathlib.Path(sys.argv[1])))"
)

PROJECT = """
[project]
name = "portico"
dependencies = ["anyio>=4", {more}]
"""

OLD_MAIN = """
import os, sys, portico
NAMES = ("steady", "moved", "gone")
ROWS = {
    "steady": ["ok   steady row                             1.00 x    (at most 2)  a note"],
    "moved": ["ok   rate                                  10.00 k/s  (at least 5)  a note"],
    "gone": ["MISS gone row                               3.00 x    (at most 2)  a note"],
}
if __name__ == "__main__":
    print("a warning", file=sys.stderr)
    for name in sys.argv[1:]:
        print(*ROWS[name], sep="\\n")
    open(os.environ["LOG"], "a").write(f"old {name} {portico.WHICH}\\n")
    sys.exit(name == "gone")
"""

NEW_MAIN = """
import argparse, json, os, subprocess, sys, time, portico
NAMES = ("steady", "moved", "made", "broken", "endless")
parser = argparse.ArgumentParser()
parser.add_argument("names", nargs="*")
parser.add_argument("--json", action="store_true")
def row(name, value, more):
    return json.dumps({"name": name, "value": value, "unit": "k/s" if more else "x", "goal": 2, "note": "",
                       "more_is_better": more, "reached": True})
if __name__ == "__main__":
    (name,) = parser.parse_args().names
    open(os.environ["LOG"], "a").write(f"new {name} {portico.WHICH}\\n")
    if name == "broken":
        sys.exit("no such luck")
    if name == "endless":
        children = [subprocess.Popen(["sleep", "1000"], start_new_session=n) for n in (0, 1)]
        open(os.environ["LOG"] + ".pids", "w").write(" ".join(str(c.pid) for c in children) + " .")
        try:
            time.sleep(1000)
        finally:
            time.sleep(1000)  # it does not give up by itself
    print(row("rate", 8.0, True) if name == "moved" else row(name + " row", 1.0, False))
"""


class Repository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repository"
        self.log = folder / "log"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        for name in ("benchmarks", "portico"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "benchmarks" / "__init__.py").touch()
        self.git("init", "--quiet")
        self.write("old", OLD_MAIN)
        self.commit("old")
        self.write("new", NEW_MAIN)
        self.commit("new")

    def write(self, which: str, benchmarks: str, more: str = "") -> None:
        (self.folder / "pyproject.toml").write_text(PROJECT.format(more=more))
        (self.folder / "portico" / "__init__.py").write_text(f"WHICH = {which!r}\n")
        (self.folder / "benchmarks" / "__main__.py").write_text(benchmarks)

    def commit(self, tag: str) -> None:
        self.git("add", ".")
        self.git("-c", "user.name=n", "-c", "user.email=e@localhost", "commit", "--quiet", "-m", tag)
        self.git("tag", tag)

    def git(self, *arguments: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.temporary), "GIT_CONFIG_NOSYSTEM": "1"}
        argv = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LOG": str(self.log),
            "TMPDIR": str(self.temporary),
        }
        return subprocess.Popen(
            [sys.executable, "-c", COMPARE, str(self.folder), *arguments],
            env=environment,
            cwd=self.temporary,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def compare(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            output, complaints = process.communicate(timeout=HANG_SECONDS)
        self.check_nothing_is_left()
        return process.returncode, output, complaints

    def check_nothing_is_left(self) -> None:
        assert list(self.temporary.iterdir()) == []
        assert len(self.git("worktree", "list").splitlines()) == 1


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def row(output: str, name: str) -> Sequence[str]:
    (line,) = [line for line in output.splitlines() if line.startswith(f"{name}  ")]
    return line.removeprefix(name).split()


def test_each_build_runs_its_own_benchmarks_in_turn(repository: Repository) -> None:
    status, output, progress = repository.compare("old", "steady", "moved", "--rounds", "2")
    assert status == 1
    turns = [f"{which} {name} {which}" for name in ("steady", "moved") for _ in range(2) for which in ("old", "new")]
    assert repository.log.read_text().splitlines() == turns
    assert row(output, "steady row") == ["1.00", "x", "1.00", "x", "1.00", "0%", "/", "0%", "same"]
    assert row(output, "rate") == ["10.00", "k/s", "8.00", "k/s", "0.80", "0%", "/", "0%", "worse"]
    assert "warning" not in output + progress
    assert "moved, round 2 of 2, new: " in progress


def test_where_nothing_is_worse_the_status_is_0_and_what_one_build_alone_has_is_said(repository: Repository) -> None:
    status, output, _ = repository.compare("old", "steady", "made", "gone", "--rounds", "1")
    assert status == 0
    assert "made: a benchmark of the new build alone" in output and "only in new" in output
    assert "gone: a benchmark of the old build alone" in output and "only in old" in output


def test_a_benchmark_that_fails_shows_its_last_words_and_the_others_go_on(repository: Repository) -> None:
    status, output, _ = repository.compare("old", "broken", "steady", "--rounds", "1")
    assert status == 1
    assert "broken fails in the working tree" in output and "no such luck" in output
    assert row(output, "steady row")[-1] == "same"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "steady"], "'nowhere' names no commit here"),
        (["--upload-pack=x", "steady"], "unrecognized arguments"),
        (["old", "stedy"], "there is no benchmark 'stedy'; there are steady, moved, made, broken, endless, gone"),
        (["old", "steady", "--rounds", "0"], "--rounds"),
        ([], "OLD"),
    ],
)
def test_what_can_not_be_compared_is_told(repository: Repository, arguments: list[str], words: str) -> None:
    status, _, complaints = repository.compare(*arguments)
    assert status == 2
    assert words in complaints and "Traceback" not in complaints
    assert not repository.log.exists()


def test_a_build_with_other_dependencies_is_refused(repository: Repository) -> None:
    repository.write("old", OLD_MAIN, more='"anyio>=1000", "no-such-thing-at-all"')
    repository.commit("ahead")
    status, _, complaints = repository.compare("ahead", "steady")
    assert status == 2
    assert "it needs anyio>=1000, here is 4." in complaints
    assert "it needs no-such-thing-at-all, which is not here" in complaints


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_it_with_all_that_it_has_started(repository: Repository, number: signal.Signals) -> None:
    pids = repository.log.with_suffix(".pids")
    with repository.start("old", "endless") as process:
        try:
            end = time.monotonic() + HANG_SECONDS
            while not (pids.exists() and pids.read_text().endswith(".")):
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.05)
            children = [psutil.Process(int(pid)) for pid in pids.read_text().split()[:-1]]
            (benchmark,) = psutil.Process(process.pid).children()
            process.send_signal(number)
            _, complaints = process.communicate(timeout=HANG_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 130
    assert complaints.endswith("interrupted\n") and "Traceback" not in complaints
    assert gone_soon([benchmark, *children])
    repository.check_nothing_is_left()

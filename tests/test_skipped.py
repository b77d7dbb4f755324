"""The option that runs what was skipped."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.limits import HANG_SECONDS

ROOT = Path(__file__).parents[1]

SUITE = """
import os
import pytest

lacking = pytest.mark.skipif("PROGRAM" not in os.environ, reason="there is no program")

@lacking
@pytest.mark.parametrize("n", range(3))
def test_with(n): assert n < 2

@pytest.mark.skip(reason="never")
def test_never(): pass

def test_without(): pass
"""
MODULE = """
import os
import pytest

if "PROGRAM" not in os.environ:
    pytest.skip("there is no program", allow_module_level=True)

def test_all(): pass
"""


class Suite:
    """Runs pytest in ``folder``, which has a cache of its own; says which tests passed, failed and were skipped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "test_suite.py").write_text(SUITE)
        (folder / "test_module.py").write_text(MODULE)

    def __call__(self, *options: str, status: int, **variables: str) -> set[str]:
        command = [sys.executable, "-m", "pytest", "-p", "tests.skipped", "-p", "xdist", "-rA", *options]
        env = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
        run = subprocess.run(command, cwd=self._folder, env=env, capture_output=True, text=True, timeout=HANG_SECONDS)
        assert run.returncode == status, run.stdout + run.stderr
        lines = [line.split() for line in run.stdout.splitlines()]
        return {f"{words[0]} {words[1].split('::')[1]}" for words in lines if words[1:] and "::" in words[1]}


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_what_was_skipped_runs_until_it_has_run(suite: Suite) -> None:
    assert suite(status=0) == {"PASSED test_without"}
    suite("-k", "without", status=0)  # says nothing of the others
    again = suite("--last-skipped", status=1, PROGRAM="there")
    assert again == {"PASSED test_with[0]", "PASSED test_with[1]", "FAILED test_with[2]", "PASSED test_all"}
    # What has failed is for --last-failed. Here and where nothing was skipped, all is well.
    assert suite("--last-skipped", "--deselect", "test_suite.py::test_never", status=0, PROGRAM="there") == set()


def test_workers_know_it_too(suite: Suite) -> None:
    suite("-n", "2", status=0)
    assert len(suite("-n", "2", "--last-skipped", status=1, PROGRAM="there")) == 4


def test_without_the_cache_nothing_is_known(suite: Suite) -> None:
    suite("-p", "no:cacheprovider", "--last-skipped", status=4)

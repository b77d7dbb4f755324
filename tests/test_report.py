"""The summary that says what ran."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.limits import HANG_SECONDS

ROOT = Path(__file__).parents[1]

SUITE = """
import pytest

@pytest.mark.real_cli
@pytest.mark.parametrize("n", range(3))
def test_real(n): pass

@pytest.mark.real_cli
def test_real_that_fails(): assert False

@pytest.mark.real_cli
@pytest.mark.parametrize("n", range(2))
def test_real_that_is_skipped(n): pytest.skip("no CLI here")

@pytest.mark.fake_agent
def test_fake(): pass

@pytest.fixture
def broken(): raise RuntimeError

def test_error(broken): pass

@pytest.mark.skip(reason="not today")
def test_never(): pass

@pytest.mark.real_cli
@pytest.mark.long
def test_deselected(): pass
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_tests_are_counted_by_agent_and_skips_by_reason(tmp_path: Path, workers: str) -> None:
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    # The repository's own options, so that what is tested is what `make test` prints.
    command = [sys.executable, "-m", "pytest", "-c", f"{ROOT}/pyproject.toml", "--rootdir", str(ROOT)]
    command += ["-p", "tests.report", "-p", "no:cacheprovider", "-n", workers, "-m", "not long", str(suite)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * HANG_SECONDS, check=False)

    lines = run.stdout.splitlines()
    assert run.returncode == 1, run.stdout + run.stderr
    assert (
        "real CLI: 3 passed, 1 failed, 2 skipped | fake agent: 1 passed, 0 failed, 0 skipped | "
        "other: 0 passed, 1 failed, 1 skipped"
    ) in lines, run.stdout
    assert lines.count("skipped 2: no CLI here") == 1
    assert lines.count("skipped 1: not today") == 1

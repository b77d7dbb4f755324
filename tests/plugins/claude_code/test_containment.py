"""The mechanism that contains agents: the choice of it, and the view from inside."""

import os
import sys
from pathlib import Path

import pytest

from portico.plugins.claude_code.containment import detect
from tests.support.agents import MECHANISMS, contained
from tests.support.sandbox import run_wrapped

pytestmark = pytest.mark.anyio


async def test_the_first_one_that_works_is_taken() -> None:
    working = []
    for name in MECHANISMS:
        try:
            working.append((await detect(os.environ["PATH"], [name])).name)
        except LookupError:
            continue
    containment = await detect(os.environ["PATH"])
    assert containment.name == working[0]
    assert containment.describe().startswith(f"{working[0]}: ")


async def test_without_any_tool_there_is_best_effort(tmp_path: Path) -> None:
    containment = await detect(str(tmp_path))
    assert containment.name == "best-effort"
    assert containment.wrap(["claude"], tmp_path, tmp_path) == ["claude"]


async def test_a_tool_that_does_not_work_is_not_taken(tmp_path: Path) -> None:
    for name in ("setpriv", "unshare"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    containment = await detect(
        f"{tmp_path}:{os.environ['PATH']}", ["pid-namespace", "user-pid-namespace", "best-effort"]
    )
    assert containment.name == "best-effort"
    assert containment.prefix == ()


@pytest.mark.parametrize("name", MECHANISMS)
async def test_the_user_and_the_exit_status_stay_the_same(name: str, tmp_path: Path) -> None:
    containment = await contained(name)
    command = containment.wrap(["sh", "-c", f"id -u; touch {tmp_path}/made; exit 7"], tmp_path, tmp_path)
    try:
        result = await run_wrapped(command)
    finally:
        if (group := containment.cgroup(tmp_path)) is not None:
            group.rmdir()
    assert result.stdout.decode().strip() == str(os.getuid())
    assert result.returncode == 7
    assert (tmp_path / "made").stat().st_uid == os.getuid()


@pytest.mark.parametrize("name", ["pid-namespace", "user-pid-namespace"])
async def test_orphans_in_a_namespace_are_reaped(name: str, tmp_path: Path) -> None:
    containment = await contained(name)
    # This one, like the CLI, waits for its own children only.
    script = (
        "import os, time; os.system('(sleep 0.05 &)'); time.sleep(0.3);"
        "os.system(r\"cat /proc/[0-9]*/stat | grep -cE '^[0-9]+ \\(.*\\) Z '\")"  # proc(5)
    )
    command = containment.wrap([sys.executable, "-S", "-c", script], tmp_path, tmp_path)
    result = await run_wrapped(command)
    assert result.stdout.strip() == b"0"

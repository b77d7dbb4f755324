"""All checks together, and the command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest

from portico.cli.doctor.examine import CHECKS, examine, status
from portico.cli.doctor.finding import Finding, Place, ok
from portico.config.load import load
from portico.plugins.registry import Registry
from tests.support.limits import HANG_SECONDS
from tests.support.server import ROOT

pytestmark = pytest.mark.anyio


async def doctor(folder: Path, *options: str, **variables: str) -> CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], "PORTICO_DATA_DIR": str(folder / "data"), "PORTICO_PORT": "0"}
    argv = [sys.executable, "-m", "portico", "doctor", *options]
    env = environment | {"PYTHONPATH": str(ROOT), "HOME": str(folder)} | variables
    with anyio.fail_after(HANG_SECONDS):
        return await anyio.run_process(argv, env=env, check=False, cwd=folder)


async def test_the_command_says_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    missing = {"PORTICO_CLAUDE_CLI_PATH": "/nowhere", "ANTHROPIC_API_KEY": "the-key-itself"}
    done = await doctor(tmp_path, **missing)
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    (wrong,) = [line for line in lines if line.startswith("failure")]
    assert "There is no file /nowhere: install one with" in wrong
    done = await doctor(tmp_path, "--json", "--driver", "echo", **missing)
    assert done.returncode == 0
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert [finding["check"] for finding in findings] == list(CHECKS)
    assert {finding["state"] for finding in findings} == {"ok"}
    assert b"the-key-itself" not in done.stdout + done.stderr
    assert not (tmp_path / "data").exists()  # it changes nothing


async def test_settings_that_cannot_be_loaded_are_what_it_finds(tmp_path: Path) -> None:
    done = await doctor(tmp_path, "--json", PORTICO_MAX_SESSIONS="many")
    assert done.returncode == 1
    (finding,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (finding["check"], finding["state"]) == ("settings", "failure")
    assert "PORTICO_MAX_SESSIONS=many" in finding["text"]


async def test_a_check_that_hangs_or_fails_stops_no_other(tmp_path: Path) -> None:
    async def hangs(place: Place) -> Finding:
        await anyio.sleep_forever()
        raise AssertionError

    async def fails(place: Place) -> Finding:
        raise ValueError("of a test")

    async def works(place: Place) -> Finding:
        return ok("fine")

    place = Place(load({"data_dir": str(tmp_path)}, {}, tmp_path), Registry(), [], {})
    found = await examine(place, {"a": hangs, "b": fails, "c": works}, seconds=0.05)
    assert [finding.state for finding in found.values()] == ["failure", "failure", "ok"]
    assert "ValueError: of a test" in found["b"].text
    assert status(found) == 1 and status({"c": found["c"]}) == 0

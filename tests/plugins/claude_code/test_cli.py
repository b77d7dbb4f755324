"""Finding the CLI."""

import os
import sys
from pathlib import Path

import pytest
from claude_code_sdk import CLINotFoundError

from portico.core.errors import AgentUnavailable
from portico.plugins.claude_code import cli
from portico.plugins.claude_code.cli import MINIMUM, CliVersions, find_cli
from tests.support.agents import gone_soon, processes_with, real_cli, unique_seconds

pytestmark = pytest.mark.anyio


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_setting_comes_first_then_path(tmp_path: Path) -> None:
    named = script(tmp_path / "named", "")
    on_path = script(tmp_path / "claude", "")
    assert find_cli(named, str(tmp_path)) == named
    assert find_cli(None, str(tmp_path)) == on_path


def test_the_bundled_one_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "claude_agent_sdk"
    (package / "_bundled").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    bundled = script(package / "_bundled" / "claude", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "claude_agent_sdk", raising=False)
    assert find_cli(None, str(tmp_path / "empty")) == bundled


def test_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "claude_agent_sdk", raising=False)
    with pytest.raises(AgentUnavailable) as caught:
        find_cli(None, str(tmp_path))
    assert caught.value.code == "cli_not_found"
    assert "pip install 'portico-server[claude]'" in caught.value.detail
    assert isinstance(caught.value.__cause__, CLINotFoundError)


def test_the_setting_names_nothing_or_nothing_that_runs(tmp_path: Path) -> None:
    with pytest.raises(AgentUnavailable) as caught:
        find_cli(tmp_path / "missing", os.environ["PATH"])
    assert caught.value.code == "cli_not_found"
    assert str(tmp_path / "missing") in caught.value.detail
    script(tmp_path / "plain", "").chmod(0o644)
    with pytest.raises(AgentUnavailable) as caught:
        find_cli(tmp_path / "plain", os.environ["PATH"])
    assert caught.value.code == "cli_not_executable"


@pytest.mark.real_cli
async def test_the_real_one_is_new_enough() -> None:
    assert await CliVersions().check(real_cli(), {}) >= MINIMUM


async def test_an_old_one_is_refused(tmp_path: Path) -> None:
    old = script(tmp_path / "claude", "echo '1.0.128 (Claude Code)'")
    with pytest.raises(AgentUnavailable) as caught:
        await CliVersions().check(old, {})
    assert caught.value.code == "cli_too_old"
    assert "1.0.128" in caught.value.detail and "2.1.0" in caught.value.detail


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'cannot find module' >&2; exit 1", "cannot find module"),
        ("echo hello", "hello"),
        ("exec yes", "far too long"),
        ("kill -9 $$", "-9"),
    ],
)
async def test_a_broken_one_is_told_with_what_it_says(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(AgentUnavailable) as caught:
        await CliVersions().check(script(tmp_path / "claude", text), {"PATH": os.environ["PATH"]})
    assert caught.value.code == "cli_broken"
    assert said in caught.value.detail


async def test_no_program_at_all(tmp_path: Path) -> None:
    path = tmp_path / "claude"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    with pytest.raises(AgentUnavailable) as caught:
        await CliVersions().check(path, {})
    assert caught.value.code == "cli_broken"


async def test_one_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERSION_TIME", 0.5)
    word = unique_seconds()
    with pytest.raises(AgentUnavailable) as caught:
        await CliVersions().check(script(tmp_path / "claude", f"sleep {word}; echo"), {"PATH": os.environ["PATH"]})
    assert caught.value.code == "cli_broken"
    assert gone_soon(processes_with(word))


async def test_it_is_asked_once_until_its_file_changes(tmp_path: Path) -> None:
    text = f"echo x >> {tmp_path}/asked; echo 2.1.400"
    path = script(tmp_path / "claude", text)
    versions = CliVersions()
    assert await versions.check(path, {}) == (2, 1, 400)
    assert await versions.check(path, {}) == (2, 1, 400)
    assert (tmp_path / "asked").read_text() == "x\n"
    script(path, text.replace("400", "4001"))
    assert await versions.check(path, {}) == (2, 1, 4001)


async def test_it_gets_the_given_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hush")
    path = script(tmp_path / "claude", f"/usr/bin/env > {tmp_path}/env; echo 2.1.400")
    await CliVersions().check(path, {"HOME": "/nowhere"})
    text = (tmp_path / "env").read_text()
    assert "HOME=/nowhere" in text
    assert "hush" not in text

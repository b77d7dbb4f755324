"""Commands as typed after `portico`, run within the test: a process for each would take longer than the command."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Protocol

import pytest

from portico.cli.commands import commands
from portico.cli.ending import status_of


class Typed(Protocol):
    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> tuple[int, str, str]:
        """Status, output and errors. ``variables`` are the environment's. What is raised but not meant to be, is."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of what is typed."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def typed(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    def run(*arguments: str, stdin: str = "", **variables: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdin", io.StringIO(stdin))
            for name, value in variables.items():
                patched.setenv(name, value)
            try:
                status = commands.main(list(arguments), standalone_mode=False) or 0
            except (Exception, SystemExit) as error:
                said = status_of(error)
                if said is None:
                    raise
                status = said
        return status, *capsys.readouterr()

    return run

"""The name and the version that pip knows are those that the program tells."""

from __future__ import annotations

import tomllib
from pathlib import Path

from portico import __version__
from portico.plugins.manager import DISTRIBUTION

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_program_knows_its_own_name_and_version() -> None:
    assert (PROJECT["name"], PROJECT["version"]) == (DISTRIBUTION, __version__)


def test_the_command_is_named_after_the_import_and_not_after_the_distribution() -> None:
    assert list(PROJECT["scripts"]) == ["portico"]


def test_the_extra_all_has_every_extra_that_a_server_can_use() -> None:
    others = sorted(set(PROJECT["optional-dependencies"]) - {"all", "dev", "docs", "testing"})
    assert PROJECT["optional-dependencies"]["all"] == [f"{DISTRIBUTION}[{','.join(others)}]"]


def test_the_newest_changes_stand_under_the_version_of_the_program() -> None:
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == __version__

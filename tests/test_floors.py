"""The lowest versions that pyproject.toml allows are those that `make test-floors` tries."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.floors import EXTRAS, FILE, ROOT, pins

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in EXTRAS))
    for text in texts
]


def lowest(requirement: Requirement) -> Version:
    (floor,) = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==")]
    return floor


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_the_floor_of_a_dependency_is_tried(requirement: Requirement) -> None:
    (pin,) = pins(FILE)[canonicalize_name(requirement.name)].specifier
    assert (pin.operator, Version(pin.version)) == ("==", lowest(requirement)), "python -m tests.floors"


def test_what_is_installed_as_a_rule_is_allowed() -> None:
    constraints = pins(ROOT / "constraints.txt")
    for requirement in DIRECT:
        (pin,) = constraints[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), requirement


def test_the_oldest_python_is_that_of_the_floors() -> None:
    assert PROJECT["requires-python"] == ">=3.11"
    assert "\nOLDEST := 3.11\n" in (ROOT / "Makefile").read_text()

"""Writing the package of a new plugin, which works and passes its tests as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from portico.core.errors import InvalidRequest
from portico.plugins.manager import DISTRIBUTION

KINDS: Mapping[str, tuple[str, str]] = {
    "transport": ("A", "portico serve --networking-mode http,@name@"),
    "driver": ("A", "portico serve --driver @name@"),
    "store": ("A", "portico serve --store @name@"),
    "authenticator": ("An", "portico serve --auth @name@ --@name@-users ada:SECRET"),
    "observer": ("An", "portico serve"),
    "routes": ("New", "portico serve"),
}
"""The kinds with a template, and how each is used once it is installed."""

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST_NAME = 32
PREFIX = "portico-"


@dataclass(frozen=True, slots=True)
class Made:
    """A package that was written: its ``folder``, and in ``use`` a command that uses it."""

    distribution: str
    folder: Path
    use: str


def write_plugin(name: str, kind: str, folder: Path, taken: frozenset[str] = frozenset()) -> Made:
    """Write ``portico-NAME`` into a new folder of that name in ``folder``. ``taken`` are names that are in use already.

    Raises `InvalidRequest` if the name is not valid, or if the folder exists and is not empty; OSError if the folder
    cannot be written.
    """
    short = name.removeprefix(PREFIX)
    if not NAME.fullmatch(short) or len(short) > LONGEST_NAME:
        form = f"letters a to z, digits, and single hyphens between them; a letter first; at most {LONGEST_NAME}"
        raise InvalidRequest(f"{name!r} is no name for a plugin, which is: {form}")
    if f"{PREFIX}{short}" == DISTRIBUTION:
        raise InvalidRequest(f"the name {short!r} is taken already: {DISTRIBUTION} is Portico itself")
    if short in taken:
        raise InvalidRequest(f"the name {short!r} is taken already, by a plugin or for a {kind}")
    target = folder / f"{PREFIX}{short}"
    if target.is_file() or (target.exists() and any(target.iterdir())):
        raise InvalidRequest(f"{target} is there already, and not empty")
    article, use = KINDS[kind]
    module = f"{PREFIX}{short}".replace("-", "_")
    words = {
        "dist": f"{PREFIX}{short}",
        "module": module,
        "name": short,
        "prefix": short.replace("-", "_"),
        "PREFIX": short.replace("-", "_").upper(),
        "Class": "".join(part.capitalize() for part in short.split("-")),
        "kind": kind,
        "article": article,
    }
    words["use"] = _filled(use, words)
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}.py": f"{kind}.py",
        "tests/test_conformance.py": f"{kind}_test.py",
    }
    (target / "tests").mkdir(parents=True, exist_ok=True)
    for path, template in templates.items():
        text = files("portico.plugins").joinpath("templates", f"{template}.tmpl").read_text(encoding="utf-8")
        (target / path).write_text(_filled(text, words), encoding="utf-8")
    return Made(words["dist"], target, words["use"])


def _filled(text: str, words: Mapping[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], text)

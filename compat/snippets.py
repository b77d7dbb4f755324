"""The programs of docs/clients.md: a block of code whose first line names a file, and the packages that it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "clients.md"

_BLOCK = re.compile(r"^```(\w+)\n(?:#|//) ([\w/.]+)(?:: ([^\n]*))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"pip install |npm install |go get ")
_CARGO = re.compile(r"^// ([\w-]+ = .*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """``file`` is its path; ``packages`` are as its language's installer takes them (of Rust: lines of Cargo.toml)."""

    file: str
    language: str
    packages: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        """The name of what it shows: ``httpx_sse`` of ``with_httpx_sse.py``, ``r3labs`` of ``r3labs/main.go``."""
        stem = Path(self.file).parent.name if self.file.endswith("/main.go") else Path(self.file).stem
        return stem.removeprefix("with_").removeprefix("With")


def read(page: Path = PAGE) -> list[Snippet]:
    found = []
    for language, file, packages, text in _BLOCK.findall(page.read_text()):
        needed = _CARGO.findall(text) if language == "rust" else _COMMAND.sub("", packages).split()
        found.append(Snippet(file, "browser" if file.endswith(".js") else language, tuple(needed), text))
    return found

"""Finds docstrings that begin with a question word: `python -m tests.docstrings`.

A docstring begins with a verb or a noun, so that a reader knows at once what the thing does or is.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("portico", "tests", "examples", "benchmarks", "compat")
WORDS = frozenset({"What", "Who", "Whose", "Whether", "How", "Where", "Which"})
MOST = 0
"""As many are left from before this check. The number may only go down."""


def found(folder: Path) -> Iterator[str]:
    """Yield ``path:line: the docstring's first line`` for each of them."""
    for path in sorted(folder.rglob("*.py")):
        for line, text in docstrings(ast.parse(path.read_text())):
            first = text.strip().partition("\n")[0]
            if first.split(" ")[0] in WORDS:
                yield f"{path.relative_to(folder.parent)}:{line}: {first}"


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every string that is a statement: those below a variable describe it."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(lineno=line, value=ast.Constant(value=str(text))):
                yield line, text


def main() -> None:
    """Exit with status 1 where there are more than there were."""
    lines = [line for folder in FOLDERS for line in found(ROOT / folder)]
    if len(lines) > MOST:
        print(*lines, sep="\n")
        sys.exit(f"{len(lines)} docstrings begin with one of {', '.join(sorted(WORDS))}: at most {MOST} may.")
    if len(lines) < MOST:
        print(f"Only {len(lines)} docstrings begin with a question word by now: lower MOST in tests/docstrings.py.")


if __name__ == "__main__":
    main()

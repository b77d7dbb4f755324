"""A model of the CLI's reading of tool rules, which `plugins/claude_code/test_rules.py` compares with the CLI."""

from __future__ import annotations

from collections.abc import Iterable

Rule = tuple[str, str | None]
"""A tool, and the content in brackets behind it."""


def split(text: str) -> list[str]:
    """At commas and blanks, but not between an opening bracket and the next closing one."""
    pieces, piece, inside = [], "", False
    for character in text:
        if character in ", " and not inside:
            pieces.append(piece)
            piece = ""
            continue
        inside = character == "(" or (inside and character != ")")
        piece += character
    return [piece for piece in (*pieces, piece) if piece]


def read(piece: str) -> Rule:
    """The content begins at the first bracket that is not escaped, and ends at the last, if that is the end."""
    brackets = [place for place, character in enumerate(piece) if character in "()" and not _escaped(piece, place)]
    if len(brackets) < 2 or piece[brackets[0]] != "(" or piece[brackets[-1]] != ")":
        return piece, None
    if brackets[0] == 0 or brackets[-1] != len(piece) - 1:
        return piece, None
    return piece[: brackets[0]], piece[brackets[0] + 1 : -1]


def heard(rules: Iterable[str]) -> list[Rule]:
    """Return the rules that the CLI reads in one argument."""
    return [read(piece) for piece in split(",".join(rules))]


def _escaped(text: str, place: int) -> bool:
    before = text[:place]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1

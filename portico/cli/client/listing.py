"""Sessions as lines of text. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from portico.cli.client.transcript import printable, shorten

HEADS = ("SESSION", "STATE", "TURNS", "LAST ACTIVE", "TITLE")
TITLE = 256
"""The longest title in characters; the server takes no longer one."""
NARROW = 20
"""The least columns for a title, whatever the width."""


def listing(found: Sequence[Mapping[str, Any]], width: int | None = None) -> list[str]:
    """Return a line of headings and a line for each session. Only titles are ever cut, to fit in ``width`` columns."""
    rows = [HEADS, *(_row(session) for session in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS) - 1)]
    left = None if width is None else max(NARROW, width - sum(widths) - 2 * len(widths))
    return ["  ".join([*map(str.ljust, row[:-1], widths), _cut(row[-1], left)]).rstrip() for row in rows]


def _row(session: Mapping[str, Any]) -> tuple[str, ...]:
    when = str(session["last_active_at"])[:19].replace("T", " ")
    title = printable(shorten(session["title"] or "", TITLE))
    return session["session_id"], session["state"], str(session["turns"]), when, title


def _cut(title: str, left: int | None) -> str:
    if left is None or cell_len(title) <= left:
        return title
    return set_cell_size(title, left - 1).rstrip() + "…"

"""``portico sessions``: which sessions there are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from portico.client.api import Client
from portico.client.connection import Endpoint
from portico.client.errors import ClientError
from portico.client.screen import Screen
from portico.client.transcript import printable, shorten

TITLE = 40  # characters


async def sessions(endpoint: Endpoint, *, json_output: bool = False) -> int:
    """Print the sessions, newest first: a table, or one JSON object a line. Returns the exit status."""
    screen = Screen(sys.stdout, sys.stdout, details=True)
    try:
        async with Client(endpoint) as client:
            found = await client.sessions()
    except ClientError as error:
        Screen(sys.stdout, sys.stderr, details=True).note(f"portico: {error}", "red")
        return 1
    if json_output:
        for session in found:
            screen.raw(json.dumps(session, ensure_ascii=False) + "\n")
    else:
        screen.table(table(found))
    return 0


def table(found: Iterable[Mapping[str, Any]]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("SESSION", no_wrap=True, overflow="fold")
    grid.add_column("STATE", no_wrap=True)
    grid.add_column("TURNS", justify="right")
    grid.add_column("LAST ACTIVE", no_wrap=True)
    grid.add_column("TITLE")
    for session in found:
        when = str(session["last_active_at"])[:19].replace("T", " ")
        title = printable(shorten(session["title"] or "", TITLE))
        grid.add_row(session["session_id"], session["state"], str(session["turns"]), when, title)
    return grid

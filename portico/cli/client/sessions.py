"""``portico sessions``: listing sessions, closing them, and exporting their events."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from portico.cli.client.api import Client
from portico.cli.client.connection import Endpoint
from portico.cli.client.errors import ClientError
from portico.cli.client.listing import listing
from portico.cli.client.screen import Screen

CLOSED = "closed"


async def sessions(endpoint: Endpoint, *, closed: bool = False, json_output: bool = False) -> int:
    """Print the sessions, newest first: a line each, or one JSON object a line. Return the exit status.

    ``closed``: include closed sessions.
    """

    async def show(client: Client, screen: Screen) -> None:
        found = await client.sessions()
        shown = [session for session in found if closed or session["state"] != CLOSED]
        if json_output:
            for session in shown:
                screen.json(session)
        else:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            screen.raw("".join(line + "\n" for line in listing(shown, width)))
        if (hidden := len(found) - len(shown)) and sys.stderr.isatty():
            screen.note(f"{hidden} more {'is' if hidden == 1 else 'are'} closed: --all lists them")

    return await _on(endpoint, show)


async def close(endpoint: Endpoint, session_id: str, *, purge: bool = False) -> int:
    """Close a session. ``purge``: delete its history and workspace too. Return the exit status."""

    async def end(client: Client, screen: Screen) -> None:
        await client.close_session(session_id, purge=purge)
        screen.raw(f"session {session_id} is {'deleted' if purge else 'closed'}\n")

    return await _on(endpoint, end)


async def export(endpoint: Endpoint, session_id: str) -> int:
    """Print all events of a session, one JSON object a line. Return the exit status."""

    async def write(client: Client, screen: Screen) -> None:
        async with aclosing(client.whole_history(session_id)) as events:
            async for event in events:
                screen.json(event)

    return await _on(endpoint, write)


async def _on(endpoint: Endpoint, do: Callable[[Client, Screen], Awaitable[None]]) -> int:
    screen = Screen(sys.stdout, sys.stderr, details=True)
    try:
        async with Client(endpoint) as client:
            await do(client, screen)
    except ClientError as error:
        screen.note(f"portico: {error}", "red")
        return 1
    return 0

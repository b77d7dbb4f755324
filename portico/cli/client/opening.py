"""Finding or making the session for a command, according to the command's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portico.cli.client.api import Client
from portico.cli.client.errors import ClientError, ProblemError
from portico.cli.client.invocation import Invocation
from portico.cli.client.screen import Screen

Session = dict[str, Any]
Wanted = Mapping[str, str | None]
"""Fields of a session: ``title``, ``model``, ``permission_mode``, ``cwd``; None if the user did not give it."""


async def make_session(client: Client, session_id: str | None, wanted: Wanted, again: Invocation) -> Session:
    """Make a new session. Raises `ClientError`, which says what to do if there are too many."""
    try:
        return await client.create_session({"session_id": session_id, **wanted})
    except ProblemError as error:
        if error.code != "too_many_sessions":
            raise
        hint = f"`{again.line('sessions')}` lists them, `{again.line('sessions', 'close', 'ID')}` closes one"
        raise ClientError(f"{error}. {hint}") from error


async def change_session(client: Client, found: Session, wanted: Wanted, screen: Screen) -> Session:
    """Change an existing session as wanted, and report it. Raises `ClientError`: its folder can't be changed."""
    changes = {name: value for name, value in wanted.items() if value is not None and found.get(name) != value}
    if "cwd" in changes:
        raise ClientError(f"--cwd is for new sessions; session {found['session_id']} works in {found['cwd']}")
    if not changes:
        return found
    changed = await client.change_session(found["session_id"], changes)
    for name, value in changes.items():
        before = f"was {found[name]}" if found.get(name) else "had none"
        screen.note(f"session {found['session_id']} has {name.replace('_', ' ')} {value} from now on ({before})")
    return changed


def refuse_closed(found: Session, again: Invocation) -> None:
    """Raise `ClientError` for a closed session: it takes no more queries."""
    if found["state"] == "closed":
        export = again.line("sessions", "export", found["session_id"])
        raise ClientError(f"session {found['session_id']} is closed; `{export}` prints its events")

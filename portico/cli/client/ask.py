"""``portico ask``: one question, its answer on standard output."""

from __future__ import annotations

import sys
import uuid
from typing import Any

import anyio

from portico.cli.client.api import Client
from portico.cli.client.connection import Endpoint
from portico.cli.client.errors import ClientError, ProblemError
from portico.cli.client.invocation import Invocation
from portico.cli.client.keyboard import Lines, ctrl_c
from portico.cli.client.leave import Decide, ask_user, say_no, say_yes
from portico.cli.client.opening import Wanted, change_session, make_session, refuse_closed
from portico.cli.client.screen import Screen, trouble
from portico.cli.client.turn import Outcome, TurnView

PATIENCE = 60.0
CLOSE_SECONDS = 10.0
HURRY_SECONDS = 2.0  # after a second Ctrl-C


async def ask(
    endpoint: Endpoint,
    text: str,
    *,
    again: Invocation,
    session: str | None = None,
    title: str | None = None,
    model: str | None = None,
    permission_mode: str | None = None,
    cwd: str | None = None,
    keep: bool = False,
    allow: bool = False,
    json_output: bool = False,
    verbose: bool = False,
) -> int:
    """Print the answer to ``text`` (``-``: standard input) as it streams. Return the exit status.

    0: the turn ended by itself; 1: it did not, and standard error says why; 130: the user stopped it. A session named
    with ``session`` is created if needed, and stays; if it exists, ``title``, ``model`` and ``permission_mode`` are
    changed as given. An unnamed session is closed at the end, unless ``keep``; then ``again`` makes the command line
    that continues it. If nobody can be asked for permission to use a tool, the answer is no, or with ``allow`` always
    yes.
    """
    screen = Screen(sys.stdout, sys.stderr, details=not json_output and (verbose or sys.stderr.isatty()))
    lines = Lines()
    if allow:
        decide = say_yes(screen)
    elif lines.interactive and sys.stderr.isatty():
        decide = ask_user(screen, lines)
    else:
        decide = say_no(screen, "there is nobody to ask; --allow allows everything")
    status = 1
    try:
        query = await _query(text, lines)
        wanted = {"title": title, "model": model, "permission_mode": permission_mode, "cwd": cwd}
        async with Client(endpoint, patience=PATIENCE, on_trouble=trouble(screen, PATIENCE)) as client:
            session_id, made = await _session(client, session, wanted, screen, again)
            temporary = made and not session and not keep
            status = await _turn(client, session_id, query, screen, decide, close=temporary, raw=json_output)
            if made and keep:
                screen.note(f"Session {session_id} is kept: {again.line('chat', session_id)} goes on with it.")
    except* (ClientError, ValueError) as group:
        for error in _leaves(group):
            screen.note(f"portico: {error}", "red")
    return status


async def _turn(
    client: Client, session_id: str, query: str, screen: Screen, decide: Decide, *, close: bool, raw: bool
) -> int:
    turn_id = str(uuid.uuid4())
    view = TurnView(client, session_id, turn_id, screen, decide, raw=raw)
    outcome = Outcome()
    try:
        async with ctrl_c() as presses:
            outcome = await view.show(client.query(session_id, query, turn_id=turn_id), presses)
    finally:
        if close:
            await _close(client, session_id, screen, HURRY_SECONDS if outcome.left else CLOSE_SECONDS)
    if outcome.stop_reason == "end_turn":
        return 0
    if outcome.interrupted:
        return 130
    reason = outcome.failed or f"the turn ended with {outcome.stop_reason}"
    screen.note(f"portico: {reason}", "red")
    return 1


async def _query(text: str, lines: Lines) -> str:
    query = await lines.rest() if text == "-" else text
    if not query.strip():
        raise ValueError("there is no text to ask")
    try:
        query.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not UTF-8") from None
    return query


async def _session(
    client: Client, name: str | None, wanted: Wanted, screen: Screen, again: Invocation
) -> tuple[str, bool]:
    """Return the session's id, and whether it is new."""
    if name is not None:
        try:
            found = await client.session(name)
        except ProblemError as error:
            if error.status != 404:
                raise
        else:
            refuse_closed(found, again)
            await change_session(client, found, wanted, screen)
            return name, False
    session_id: str = (await make_session(client, name, wanted, again))["session_id"]
    if name is not None:
        screen.note(f"Session {name} is new.")
    return session_id, True


async def _close(client: Client, session_id: str, screen: Screen, seconds: float) -> None:
    with anyio.move_on_after(seconds, shield=True) as limit:
        try:
            await client.close_session(session_id)
        except ClientError as error:
            screen.note(f"session {session_id} could not be closed: {error}", "yellow")
    if limit.cancelled_caught:
        screen.note(f"session {session_id} may still be open: the server does not answer", "yellow")


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    inner = [_leaves(e) if isinstance(e, BaseExceptionGroup) else [e] for e in group.exceptions]
    return [error for errors in inner for error in errors]

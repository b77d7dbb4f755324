"""``portico chat``: a conversation on the terminal."""

from __future__ import annotations

import re
import shutil
import sys
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from enum import Enum
from typing import Any

import anyio

from portico.cli.client.api import Client, Event, begun_by_agent
from portico.cli.client.connection import Endpoint
from portico.cli.client.errors import ClientError, Unreachable
from portico.cli.client.invocation import Invocation
from portico.cli.client.keyboard import Lines, Presses, ctrl_c, drain
from portico.cli.client.leave import ask_user, say_no
from portico.cli.client.listing import listing
from portico.cli.client.opening import change_session, make_session, refuse_closed
from portico.cli.client.past import PastTurn, past_turns
from portico.cli.client.prompt import Prompt
from portico.cli.client.screen import Screen, trouble
from portico.cli.client.turn import TurnView

PATIENCE = 300.0
CLOSE_SECONDS = 5.0
NEWS_SECONDS = 5.0
RECENT_EVENTS = 2000
RECENT_TURNS = 3
BUSY = ("starting", "running", "waiting")
HELP = """\
/sessions  lists the sessions that are open
/quit      leaves, as does Ctrl-D; the session stays
Ctrl-C     stops the answer that is coming; twice leaves
Enter      sends; Alt-Enter, or Enter behind a backslash, begins a new line"""


class Key(Enum):
    CTRL_C = "Ctrl-C"
    END = "Ctrl-D"  # or the end of a pipe
    NEWS = "the agent has begun a turn by itself"


async def chat(
    endpoint: Endpoint,
    session: str | None = None,
    *,
    again: Invocation,
    title: str | None = None,
    model: str | None = None,
    permission_mode: str | None = None,
    cwd: str | None = None,
) -> int:
    """Talk with a new session, or continue the one with id ``session``. Return the exit status.

    If it exists, ``title``, ``model`` and ``permission_mode`` are changed as given. ``again`` makes the command lines
    that are shown to the user.

    If standard input is no terminal, each of its lines is a query, and permissions are denied; the status is then 1 if
    a turn failed. 130: the user left with Ctrl-C.
    """
    notes = sys.stdout if sys.stdout.isatty() else sys.stderr
    screen = Screen(sys.stdout, notes, details=True)
    try:
        async with Client(endpoint, patience=PATIENCE, on_trouble=trouble(screen, PATIENCE)) as client:
            wanted = {"title": title, "model": model, "permission_mode": permission_mode, "cwd": cwd}
            if session is None:
                view = await make_session(client, None, wanted, again)
            else:
                view = await client.session(session)
                refuse_closed(view, again)
                view = await change_session(client, view, wanted, screen)
            async with ctrl_c() as presses:
                conversation = Conversation(client, view["session_id"], screen, presses, again)
                return await conversation.run(view, new=session is None)
    except ClientError as error:
        screen.note(f"portico: {error}", "red")
        return 1


class Conversation:
    def __init__(self, client: Client, session_id: str, screen: Screen, presses: Presses, again: Invocation) -> None:
        self._client = client
        self._session_id = session_id
        self._screen = screen
        self._presses = presses
        self._again = again
        self._lines = Lines()
        self._prompt = Prompt() if self._lines.interactive else None
        hint = "standard input is no terminal, so there is nobody to ask"
        self._decide = ask_user(screen, self._lines) if self._prompt else say_no(screen, hint)
        self._status: int | None = None  # set once the user wants to leave
        self._failed = False
        self._turns = 0
        self._seen = 0  # the last event in which turns of the agent's own were looked for

    async def run(self, view: dict[str, Any], *, new: bool) -> int:
        """Talk until the user leaves. Return the exit status."""
        self._seen = view["last_seq"]
        try:
            if new:
                self._screen.note(f"Session {self._session_id}. /help says what can be done here.")
            else:
                await self._resume(view)
            while self._status is None:
                await self._step()
        except (ClientError, ValueError) as error:
            self._screen.note(f"portico: {error}", "red")
            self._status = 1
        if new and not self._turns:
            await self._discard()
        else:
            line = self._again.line("chat", self._session_id)
            self._screen.note(f"Session {self._session_id}: {line} goes on with it.")
        return self._status or int(self._failed and self._prompt is None)

    async def _step(self) -> None:
        if self._prompt:
            await self._show_news()
        if self._status is not None:
            return
        line = await self._read()
        if line is Key.NEWS:
            return
        if line is Key.CTRL_C and self._prompt:
            self._screen.note("Ctrl-C again or /quit leaves.")
            line = await self._read()
        if isinstance(line, Key):
            self._status = 130 if line is Key.CTRL_C else 0
        elif command := re.fullmatch(r"\s*/([a-z]+)\s*", line):
            await self._command(command[1])
        elif line.strip():
            turn_id = str(uuid.uuid4())
            self._turns += 1
            await self._turn(turn_id, self._client.query(self._session_id, line, turn_id=turn_id))

    async def _command(self, name: str) -> None:
        match name:
            case "quit":
                self._status = 0
            case "help":
                self._screen.note(HELP)
            case "sessions":
                await self._list()
            case _:
                self._screen.note(f"There is no /{name} here; /help says what there is.", "yellow")

    async def _list(self) -> None:
        try:
            found = [session for session in await self._client.sessions() if session["state"] != "closed"]
        except ClientError as error:
            self._screen.note(f"error: {error}", "red")
        else:
            self._screen.note("\n".join(listing(found, shutil.get_terminal_size().columns)), "")

    async def _turn(
        self, turn_id: str, events: AsyncGenerator[Event, None], settled: frozenset[str] = frozenset()
    ) -> None:
        view = TurnView(self._client, self._session_id, turn_id, self._screen, self._decide, settled=settled)
        with self._lines.quiet():
            outcome = await view.show(events, self._presses)
        if outcome.left:
            self._status = 130
        elif outcome.failed:
            self._failed = True
            self._screen.note(f"error: {outcome.failed}", "red")
            if isinstance(outcome.failed, Unreachable) and self._prompt is None:
                self._status = 1
        elif outcome.stop_reason not in ("end_turn", None):
            self._failed = True
            self._screen.note(f"({outcome.stop_reason})")

    async def _resume(self, view: dict[str, Any]) -> None:
        """Show the last exchanges, and keep watching those that are not over."""
        after = max(0, view["last_seq"] - RECENT_EVENTS)
        turns = past_turns(await self._client.history(self._session_id, after=after, limit=RECENT_EVENTS))
        self._turns = view["turns"]
        self._screen.note(f"Session {self._session_id}{': ' + view['title'] if view['title'] else ''}")
        for turn in [turn for turn in turns if turn.whole][-RECENT_TURNS:]:
            self._screen.show(turn.pieces())
        if view["state"] not in BUSY:
            return
        for turn in turns:
            if not turn.complete and self._status is None:
                await self._go_on(turn)

    async def _show_news(self) -> None:
        """Show the turns that the agent has begun by itself, and have the user answer what they ask."""
        events: list[Event] = []
        with anyio.move_on_after(NEWS_SECONDS), suppress(ClientError):
            while page := await self._client.history(self._session_id, after=self._seen, limit=RECENT_EVENTS):
                events += page
                self._seen = page[-1]["seq"]
        for turn in past_turns(events):
            if self._status is not None or not begun_by_agent(turn.events[0]):
                continue
            self._turns += 1
            if turn.complete:
                self._screen.show(turn.pieces())
            else:
                await self._go_on(turn)

    async def _go_on(self, turn: PastTurn) -> None:
        """Watch a turn that is not over."""
        first = turn.events[0]
        self._screen.show(turn.pieces()[:1] if first["type"] == "query" else [])
        events = self._client.follow(self._session_id, turn.turn_id, after=first["seq"] - 1)
        await self._turn(turn.turn_id, events, turn.settled)

    async def _read(self) -> str | Key:
        """Return the user's next line. Ctrl-C at the prompt is a key; elsewhere it is a signal. Raises ValueError."""
        drain(self._presses)
        result: str | Key = Key.CTRL_C
        failure: ValueError | None = None
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await self._presses.receive()
                tasks.cancel_scope.cancel()

            async def wait_for_news() -> None:
                nonlocal result
                await self._client.agent_turn(self._session_id, after=self._seen)
                if not tasks.cancel_scope.cancel_called:
                    result = Key.NEWS
                    tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            if self._prompt:
                tasks.start_soon(wait_for_news)
            try:
                result = await self._input()
            except KeyboardInterrupt:
                result = Key.CTRL_C
            except ValueError as error:
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return result

    async def _input(self) -> str | Key:
        if self._prompt is None:
            line = await self._lines.line()
        else:
            line = await self._prompt.line()
        return Key.END if line is None else line

    async def _discard(self) -> None:
        """Close a session in which nothing was said: it would only take up a slot."""
        with anyio.move_on_after(CLOSE_SECONDS):
            try:
                await self._client.close_session(self._session_id)
            except ClientError as error:
                self._screen.note(f"session {self._session_id} could not be closed: {error}", "yellow")

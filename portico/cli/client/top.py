"""``portico top``: the activity of a server's open sessions."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from portico.cli.client.api import Client
from portico.cli.client.connection import Endpoint
from portico.cli.client.errors import ClientError, ProblemError
from portico.cli.client.screen import Screen
from portico.cli.client.transcript import printable, shorten

STATES = ("running", "waiting", "starting", "idle", "hibernated")
"""The states of open sessions, busy ones first."""
STYLES = {"running": "green", "waiting": "yellow", "starting": "cyan", "idle": "", "hibernated": "dim"}
SECONDS = 1.0
"""Seconds between two looks."""
TITLE = 60
"""The longest title, in characters."""
MANY = 100
"""The most sessions of a state; if there are more, the newest are shown."""

SPENDERS = 5
"""The most principals whose spending is shown."""

Session = Mapping[str, Any]


class Ages:
    """The ages of the last events: to the second once an event was seen, before that as the server reports."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def age(self, session: Session, now: float) -> float:
        """Return the age in seconds; ``now`` is in seconds since 1970."""
        name, seq = session["session_id"], session["last_seq"]
        before, since = self._seen.get(name, (None, 0.0))
        if before is None:
            since = datetime.fromisoformat(session["last_active_at"]).timestamp()
        elif before != seq:
            since = now
        self._seen[name] = seq, since
        return max(0.0, now - since)


@dataclass(frozen=True, slots=True)
class Look:
    """The open sessions at one time; ``numbers`` are those of ``/metrics`` without labels, if we may see them.

    ``spent`` has the principals who have spent most today, in US dollars.
    """

    sessions: Sequence[Session]
    ages: Sequence[float]
    numbers: Mapping[str, float]
    spent: Sequence[tuple[str, float]] = ()
    trouble: str = ""

    def summary(self) -> str:
        states = Counter(session["state"] for session in self.sessions)
        parts = [f"{len(self.sessions)} open", *(f"{states[state]} {state}" for state in STATES if states[state])]
        if "portico_processes" in self.numbers:
            used, limit = (round(self.numbers[f"portico_processes{rest}"]) for rest in ("", "_limit"))
            parts.append(f"{used} of {limit} processes")
        if queued := sum(session["queued"] for session in self.sessions):
            parts.append(f"{queued} turns queued")
        parts.append(f"{dollars(*self.sessions)} in these sessions")
        return " · ".join(
            [*parts, *(f"{printable(shorten(name, TITLE))} ${usd:.2f} today" for name, usd in self.spent)]
        )

    def table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for head in ("SESSION", "STATE", "OWNER"):
            table.add_column(head, no_wrap=True)
        for head in ("LAST EVENT", "TURNS", "QUEUED", "COST"):
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("TITLE", no_wrap=True, overflow="ellipsis")
        for session, age in zip(self.sessions, self.ages, strict=True):
            cells = (
                session["session_id"],
                session["state"],
                printable(shorten(session["owner"], TITLE)),
                in_words(age),
                str(session["turns"]),
                str(session["queued"] or ""),
                dollars(session),
                printable(shorten(session["title"] or "", TITLE)),
            )
            style = STYLES.get(session["state"], "")
            table.add_row(*(Text(cell, style) for cell in cells))
        return table


async def top(endpoint: Endpoint, *, once: bool = False) -> int:
    """Show the open sessions, refreshed each second, until Ctrl-C; only once if ``once`` or not on a terminal.

    Returns the exit status.
    """
    try:
        async with Client(endpoint) as client:
            watch = _Watch(client)
            look = await watch.look()
            if once or not sys.stdout.isatty():
                console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
                console.print(_page(endpoint, look))
                return 0
            with Live(_page(endpoint, look), screen=True, auto_refresh=False) as live:
                while True:
                    await anyio.sleep(SECONDS)
                    look = await watch.again(look)
                    live.update(_page(endpoint, look), refresh=True)
    except ClientError as error:
        Screen(sys.stdout, sys.stderr, details=True).note(f"portico: {error}", "red")
        return 1


class _Watch:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._ages = Ages()

    async def look(self) -> Look:
        found: list[Session] = []
        for state in STATES:
            found += await self._client.some_sessions(state, MANY)
        now = time.time()
        text = await self._metrics()
        numbers = {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}
        return Look(found, [self._ages.age(session, now) for session in found], numbers, spent_today(text))

    async def again(self, before: Look) -> Look:
        """Look again; if the server can't be reached, return the earlier state and the reason."""
        try:
            return await self.look()
        except ClientError as error:
            return Look(before.sessions, before.ages, before.numbers, before.spent, f"{error}; trying again")

    async def _metrics(self) -> str:
        try:
            return await self._client.metrics()
        except ProblemError:  # it has none, or we may not see them
            return ""


def spent_today(metrics: str) -> list[tuple[str, float]]:
    """Return the principals who have spent most today, and their US dollars."""
    found = re.findall(r'^portico_spent_usd\{principal="((?:[^"\\]|\\.)*)"\} (\S+)$', metrics, re.MULTILINE)
    spent = [(re.sub(r"\\(.)", r"\1", name), float(usd)) for name, usd in found]
    return sorted(spent, key=lambda pair: -pair[1])[:SPENDERS]


def dollars(*sessions: Session) -> str:
    """Return the cost of all together; ``~`` says that a part of it is a guess, as nobody knows the model."""
    guessed = any(session.get("cost_basis") == "unknown" for session in sessions)
    return f"{'~' if guessed else ''}${sum(session['cost_usd'] for session in sessions):.2f}"


def _page(endpoint: Endpoint, look: Look) -> Group:
    lines = [Text(f"portico at {endpoint.address}: {look.summary()}", "bold")]
    if look.trouble:
        lines.append(Text(look.trouble, "red"))
    return Group(*lines, look.table())


def in_words(seconds: float) -> str:
    """Say a time in short form: 5s, 3m 20s, 2h 05m, 4d."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d"

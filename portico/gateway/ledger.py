"""The amount that each principal has spent today, in a small file of the data folder.

The store can't serve for this: it records a turn's cost as the agent states it, by session and not by day.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from portico.core.threads import in_thread
from portico.gateway.api_errors import budget_exceeded

SAVE_SECONDS = 1.0
"""The least time between two writes. If the server is killed, the spending of this time may be lost."""

log = logging.getLogger("portico.gateway")


def today() -> str:
    return datetime.now(UTC).date().isoformat()


class Ledger:
    """US dollars spent on this UTC day, by principal. `run` keeps the file up to date.

    ``budget`` is the amount that each principal may spend in a day.
    """

    def __init__(self, path: Path, budget: float | None, day: Callable[[], str] = today) -> None:
        self._path = path
        self._budget = budget
        self._today = day
        self._day = ""
        self._spent: dict[str, float] = {}
        self._saved: tuple[str, dict[str, float]] = "", {}
        self._changed = anyio.Event()

    def check(self, owner: str | None) -> None:
        """Raise `Refusal` if the owner's budget is spent."""
        if owner is not None and self._budget is not None and (spent := self.spent(owner)) >= self._budget:
            raise budget_exceeded(owner, spent, self._budget)

    def spent(self, owner: str) -> float:
        self._turn_page()
        return self._spent.get(owner, 0.0)

    def add(self, owner: str, usd: float) -> None:
        self._turn_page()
        self._spent[owner] = self._spent.get(owner, 0.0) + usd
        self._changed.set()

    def _turn_page(self) -> None:
        if (day := self._today()) != self._day:
            self._day, self._spent = day, {}

    async def open(self) -> None:
        """Read the file, if there is one. A file that can't be read counts as none, and is logged."""
        try:
            self._day, self._spent = _parsed(await anyio.to_thread.run_sync(self._path.read_text))
            self._saved = self._day, dict(self._spent)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
            log.error("the spending of today is unknown: %s can't be read (%s)", self._path, error)

    async def run(self) -> None:
        """Write changes to the file until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed = anyio.Event()
                await self._save()
                await anyio.sleep(SAVE_SECONDS)
        finally:
            with anyio.CancelScope(shield=True):
                await self._save()

    async def _save(self) -> None:
        day, spent = self._day, dict(self._spent)
        if (day, spent) == self._saved:
            return
        try:
            await in_thread(partial(self._write, json.dumps({"day": day, "usd": spent})))
            self._saved = day, spent
        except OSError as error:
            log.error("the spending of today can't be written to %s: %s", self._path, error.strerror)

    def _write(self, text: str) -> None:
        draft = self._path.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        draft.replace(self._path)


def _parsed(text: str) -> tuple[str, dict[str, float]]:
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("usd"), dict):
        raise ValueError("it has another form")
    amounts = {str(name): float(usd) for name, usd in value["usd"].items()}
    if not all(math.isfinite(usd) for usd in amounts.values()):
        raise ValueError("it has another form")
    return str(value.get("day")), amounts

"""The amounts that each principal has spent today, and that each agent has used in its turn, in a small file.

The store can't serve for this: it has the cost of whole turns only, by session and not by day.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from portico.core.events import Complete, with_usage
from portico.core.prices import LIST_PRICES, PriceTable
from portico.core.threads import in_thread
from portico.core.usage import UsageByModel, flaw_of_usage
from portico.gateway.account import Account
from portico.gateway.api_errors import budget_exceeded

SAVE_SECONDS = 1.0
"""The least time between two writes. If the server is killed, the spending of this time may be lost."""

log = logging.getLogger("portico.gateway")


def today() -> str:
    return datetime.now(UTC).date().isoformat()


class Ledger:
    """US dollars spent on this UTC day, by principal, and the accounts of agents that go through the gateway.

    It implements `portico.core.accounts.Accounts`. `run` keeps the file up to date. ``budget`` is the amount that each
    principal may spend in a day.
    """

    def __init__(
        self, path: Path, budget: float | None, day: Callable[[], str] = today, *, prices: PriceTable = LIST_PRICES
    ) -> None:
        self.prices = prices
        self._path = path
        self._budget = budget
        self._today = day
        self._day = ""
        self._spent: dict[str, float] = {}
        self._accounts: dict[str, Account] = {}
        self._turns: dict[str, tuple[str, float | None]] = {}  # the last turn of each agent, and its limit
        self._left: dict[tuple[str, str], UsageByModel] = {}
        self._saved = ""
        self._changed = anyio.Event()

    def account(self, agent_id: str) -> Account:
        """Return the account of an agent that goes through the gateway from now on."""
        over = [name for name, account in self._accounts.items() if account.empty and not account.open]
        for name in over:
            del self._accounts[name]
        if agent_id not in self._accounts:
            account = self._accounts[agent_id] = Account(self.prices)
            account.limit(self._turns[agent_id][1] if agent_id in self._turns else None)
        return self._accounts[agent_id]

    def settle(self, agent_id: str, owner: str, complete: Complete) -> Complete:
        """See `Accounts.settle`."""
        if (account := self._accounts.get(agent_id)) is None:
            self.add(owner, complete["cost_usd"])
            return complete
        used = self.prices.whole(complete.get("usage_by_model", {}), account.take())
        self._changed.set()
        return with_usage(complete, used)

    def begin(self, agent_id: str, turn_id: str, limit: float | None) -> None:
        """See `Accounts.begin`. An agent that does not go through the gateway is not limited."""
        self._turns[agent_id] = turn_id, limit
        if (account := self._accounts.get(agent_id)) is not None:
            account.limit(limit)

    def left(self, agent_id: str, turn_id: str) -> UsageByModel:
        """See `Accounts.left`."""
        return self._left.pop((agent_id, turn_id), {})

    def forget(self, agent_id: str) -> None:
        """See `Accounts.forget`."""
        self._accounts.pop(agent_id, None)
        self._turns.pop(agent_id, None)

    def check(self, owner: str | None) -> None:
        """Raise `Refusal` if the owner's budget is spent."""
        if owner is not None and self._budget is not None and (spent := self.spent(owner)) >= self._budget:
            raise budget_exceeded(owner, spent, self._budget)

    @property
    def budget(self) -> float | None:
        """US dollars that each principal may spend in a day, or None."""
        return self._budget

    def spent_today(self) -> Mapping[str, float]:
        """Return the US dollars that each principal has spent today."""
        self._turn_page()
        return self._spent

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
            self._day, self._spent, self._left = _parsed(await anyio.to_thread.run_sync(self._path.read_text))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
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
        used = [
            {"agent_id": agent_id, "turn_id": self._turns[agent_id][0], "usage": usage}
            for agent_id, account in self._accounts.items()
            if agent_id in self._turns and (usage := account.usage())
        ]
        text = json.dumps({"day": self._day, "usd": self._spent, "used": used})
        if text == self._saved:
            return
        try:
            await in_thread(partial(self._write, text))
            self._saved = text
        except OSError as error:
            log.error("the spending of today can't be written to %s: %s", self._path, error.strerror)

    def _write(self, text: str) -> None:
        draft = self._path.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        draft.replace(self._path)


def _parsed(text: str) -> tuple[str, dict[str, float], dict[tuple[str, str], UsageByModel]]:
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("usd"), dict):
        raise ValueError("it has another form")
    amounts = {str(name): float(usd) for name, usd in value["usd"].items()}
    used = {(str(turn["agent_id"]), str(turn["turn_id"])): turn["usage"] for turn in value.get("used", ())}
    if not all(math.isfinite(usd) for usd in amounts.values()) or any(map(flaw_of_usage, used.values())):
        raise ValueError("it has another form")
    return str(value.get("day")), amounts, used

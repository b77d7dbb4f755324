"""The money of one session: what its turns have cost, and what is left of its budget."""

from __future__ import annotations

from portico.core.accounts import SESSION_BUDGET_SPENT, Accounts
from portico.core.events import Complete, ErrorEvent, unused
from portico.core.journal import Journal


class Purse:
    """The purse of one session, used by the session's own task."""

    def __init__(self, journal: Journal, accounts: Accounts) -> None:
        self._journal = journal
        self._accounts = accounts

    def open(self, turn_id: str) -> ErrorEvent | None:
        """Let the agent spend the rest of the budget in a turn; if nothing is left, return the turn's error."""
        record = self._journal.record
        left = None if record.budget_usd is None else max(0.0, record.budget_usd - record.cost_usd)
        self._accounts.begin(record.agent_id, turn_id, left)
        return ErrorEvent(type="error", error=SESSION_BUDGET_SPENT, code="budget_exceeded") if left == 0 else None

    def pay(self, complete: Complete) -> Complete:
        """Return the end of a turn with everything that the agent has used, which is in the record from now on."""
        record = self._journal.record
        complete = self._accounts.settle(record.agent_id, record.owner, complete)
        self._journal.count(complete)
        return complete

    def close(self) -> None:
        """Put what the agent has used since its last turn into the record: the session ends."""
        self.pay(unused("closed"))
        self._accounts.forget(self._journal.record.agent_id)

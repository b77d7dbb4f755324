"""The interface of the accounts of what agents use and principals spend."""

from __future__ import annotations

from typing import Protocol

from portico.core.events import Complete
from portico.core.usage import UsageByModel

SESSION_BUDGET_SPENT = "the budget of this session is spent (budget_usd); raise it to go on"


class Accounts(Protocol):
    """The accounts of what agents use and what principals spend. An agent is named by its ``agent_id``."""

    def settle(self, agent_id: str, owner: str, complete: Complete) -> Complete:
        """Return the end of a turn with everything that the agent has used since the last call for it.

        An agent that goes through the gateway is counted there, whatever ``complete`` says: also where it was killed.
        """

    def left(self, agent_id: str) -> UsageByModel:
        """Return the usage of the turn that the server's last process left unfinished; empty at the second call."""

    def limit(self, agent_id: str, usd: float | None) -> None:
        """Refuse the agent further requests once it has spent ``usd`` dollars after this call; None is no limit."""

    def forget(self, agent_id: str) -> None:
        """Forget the agent, whose session is over."""


class NoAccounts:
    """Implements `Accounts` for an engine alone: it counts nothing, and takes agents at their word."""

    def settle(self, agent_id: str, owner: str, complete: Complete) -> Complete:
        return complete

    def left(self, agent_id: str) -> UsageByModel:
        return {}

    def limit(self, agent_id: str, usd: float | None) -> None:
        pass

    def forget(self, agent_id: str) -> None:
        pass

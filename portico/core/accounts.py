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

    def begin(self, agent_id: str, turn_id: str, limit: float | None) -> None:
        """Note that the agent begins a turn, in which it may spend ``limit`` US dollars; None is no limit."""

    def left(self, agent_id: str, turn_id: str) -> UsageByModel:
        """Return the usage of a turn that the server's last process left unfinished; empty at the second call."""

    def forget(self, agent_id: str) -> None:
        """Forget the agent, whose session is over."""


class NoAccounts:
    """Implements `Accounts` for an engine alone: it counts nothing, and takes agents at their word."""

    def settle(self, agent_id: str, owner: str, complete: Complete) -> Complete:
        return complete

    def begin(self, agent_id: str, turn_id: str, limit: float | None) -> None:
        pass

    def left(self, agent_id: str, turn_id: str) -> UsageByModel:
        return {}

    def forget(self, agent_id: str) -> None:
        pass

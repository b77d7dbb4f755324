"""The account of one agent: everything that it has used through the gateway, and how much it may still spend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from portico.core.prices import PriceTable
from portico.core.usage import UsageByModel, add_usage, cost
from portico.gateway.api_errors import session_budget_exceeded


class Counting(Protocol):
    """A meter on one reply. ``model`` is the one that the API named, empty until it has."""

    model: str

    def total(self) -> tuple[dict[str, Any], float]:
        """Return the API's ``usage`` up to now, empty if it reported none, and its cost in US dollars."""


class Account:
    """The usage of one agent, replies under way included.

    A reply is counted before the agent hears it: what the agent reports itself is never ahead.
    """

    def __init__(self, prices: PriceTable) -> None:
        self.open = False  # whether there is a way through the gateway
        self._prices = prices
        self._ended: UsageByModel = {}
        self._under_way: dict[Counting, UsageByModel] = {}  # with the part of each that was taken already
        self._limit: float | None = None
        self._spent = 0.0  # of the limit, until the last `take`

    def begin(self, meter: Counting) -> None:
        self._under_way[meter] = {}

    def end(self, meter: Counting) -> None:
        self._ended = _sum(self._ended, self._news(meter))
        del self._under_way[meter]

    def usage(self) -> UsageByModel:
        """Return the usage since the last `take`."""
        found = self._ended
        for meter in self._under_way:
            found = _sum(found, self._news(meter))
        return found

    def take(self) -> UsageByModel:
        """Return the usage since the last call."""
        found, self._ended = self.usage(), {}
        for meter in self._under_way:
            self._under_way[meter] = self._all(meter)
        self._spent += cost(found)
        return found

    @property
    def empty(self) -> bool:
        """Tell whether there is nothing to `take`, and no reply under way."""
        return not self._ended and not self._under_way

    def limit(self, usd: float | None) -> None:
        """Let the agent spend ``usd`` dollars; what it has used since the last `take` is among them."""
        self._limit, self._spent = usd, 0.0

    def check(self) -> None:
        """Raise `Refusal` if the limit is reached."""
        if self._limit is not None and self._spent + cost(self.usage()) >= self._limit:
            raise session_budget_exceeded()

    def _all(self, meter: Counting) -> UsageByModel:
        usage, _ = meter.total()
        return {meter.model: self._prices.counted(meter.model, usage)} if usage else {}

    def _news(self, meter: Counting) -> UsageByModel:
        now, taken = self._all(meter), self._under_way[meter]
        return {model: news for model, usage in now.items() if (news := _difference(usage, taken.get(model, {})))}


def _difference(now: Mapping[str, Any], before: Mapping[str, Any]) -> Any:
    """Return the usage behind ``before``, or None if there is none."""
    numbers = {name: max(0, now[name] - before.get(name, 0)) for name in now if name != "cost_basis"}
    return {**now, **numbers} if any(numbers.values()) else None


def _sum(one: UsageByModel, other: UsageByModel) -> UsageByModel:
    return cast(UsageByModel, add_usage(one, other))

"""The numbers about money that belong to no plugin: what principals have spent, and the prices that hold."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest

from portico.core.prices import DATE, SOURCE, PriceTable
from portico.gateway.ledger import Ledger
from portico.metrics.collectors import Reading

MOST = 200
"""The principals that are shown, those who have spent most; an identity provider may know any number."""


def price_table(prices: PriceTable) -> Reading:
    labels = SOURCE, DATE, str(len(prices.own))
    text = "Where the table of prices is from, its date, and how many prices the operator has given (model_prices)."
    return Reading("portico_price_table_info", text, "source", "date", "own", read=lambda: {labels: 1})


def spending(ledger: Ledger) -> Sequence[Reading]:
    def most() -> dict[tuple[str], float]:
        spent = ledger.spent_today().items()
        return {(name,): usd for name, usd in nlargest(MOST, spent, key=lambda pair: pair[1])}

    def budgets() -> dict[tuple[str], float]:
        budget = ledger.budget
        return {} if budget is None else dict.fromkeys(most(), budget)

    return [
        Reading("portico_spent_usd", "US dollars spent today (UTC).", "principal", read=most),
        Reading("portico_budget_usd", "The setting budget_usd_per_day.", "principal", read=budgets),
    ]

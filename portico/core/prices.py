"""The prices of tokens: list prices in US dollars per million tokens, and an operator's own.

For every model, a cache write costs 1.25 times the price of input if kept for 5 minutes, and twice that price for an
hour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from portico.core.usage import TOKENS, CostBasis, ModelUsage, UsageByModel, add_usage

SOURCE = "the catalogue inside claude 2.1.330"
DATE = "2026-11"
"""The origin of `PRICES`, and the month in which they were read there."""


@dataclass(frozen=True, slots=True)
class Price:
    input: float
    output: float
    cache_read: float


_OPUS_4 = Price(15, 75, 1.5)
_SONNET = Price(3, 15, 0.3)
_OPUS = Price(5, 25, 0.5)
_FABLE_5 = Price(10, 50, 1)
_FABLE_5_1 = Price(10, 50, 0.25)
_FABLE_5_2 = Price(8, 40, 0.2)

PRICES: Mapping[str, Price] = {
    "claude-3-5-haiku": Price(0.8, 4, 0.08),
    "claude-haiku-4-5": Price(1, 5, 0.1),
    "claude-haiku-5-5": Price(0.1, 0.5, 0.01),
    "claude-3-5-sonnet": _SONNET,
    "claude-3-7-sonnet": _SONNET,
    "claude-sonnet-4": _SONNET,
    "claude-sonnet-4-5": _SONNET,
    "claude-sonnet-4-6": _SONNET,
    "claude-sonnet-5": Price(2, 10, 0.2),
    "claude-sonnet-5-5": Price(2, 10, 0.1),
    "claude-opus-4": _OPUS_4,
    "claude-opus-4-0": _OPUS_4,
    "claude-opus-4-1": _OPUS_4,
    **{f"claude-opus-4-{minor}": _OPUS for minor in (5, 6, 7, 8)},
    "claude-opus-5": _OPUS,
    "claude-opus-5-5": Price(4, 20, 0.2),
    "claude-fable-5": _FABLE_5,
    "claude-fable-5-1": _FABLE_5_1,
    "claude-fable-5-2": _FABLE_5_2,
    "claude-mythos-5": _FABLE_5,
    "claude-mythos-5-1": _FABLE_5_1,
    "claude-mythos-5-2": _FABLE_5_2,
}
"""Prices by the beginning of a model's name; the longest match counts."""

LONG_PROMPT = 100_000
LONG_PROMPTS: Mapping[str, Price] = {"claude-haiku-5-5": Price(0.5, 2.5, 0.05)}
"""Prices for prompts of more than `LONG_PROMPT` tokens."""

FAST = Price(30, 150, 3)
"""The price of the fast mode, for any model."""

PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")

DEAREST = Price(*(max(getattr(price, name) for price in PRICES.values()) for name in ("input", "output", "cache_read")))
"""The price of an unknown model: nobody may get round a budget with a made-up name."""

WEB_SEARCH = 0.01
"""US dollars for each search that the API does itself."""


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The prices that hold on this server: those of the operator (``own``) come before `PRICES`."""

    own: Mapping[str, Price] = field(default_factory=dict)

    @classmethod
    def of(cls, prices: Mapping[str, Mapping[str, float]]) -> PriceTable:
        """Make the table with prices of the operator's, from the setting ``model_prices``."""
        return cls({name: Price(**price) for name, price in prices.items()})

    def cost(self, model: str, usage: Mapping[str, Any]) -> float:
        """Return the cost of one reply in US dollars; ``usage`` is the API's (https://docs.claude.com/en/api/messages).

        A model that nobody knows has the price `DEAREST`.
        """
        fresh, read, written = (_count(usage, name) for name in PROMPT)
        hour = _kept_for_an_hour(usage)
        price = self._price(model, fresh + read + written, fast=usage.get("speed") == "fast")
        prompt = price.input * (fresh + 1.25 * (written - hour) + 2 * hour) + price.cache_read * read
        return (prompt + price.output * _count(usage, "output_tokens")) / 1e6 + WEB_SEARCH * _searches(usage)

    def name(self, model: str) -> str | None:
        """Return the name under which the table knows the model, or None."""
        return _best(self.own, model) or _best(PRICES, model)

    def counted(self, model: str, usage: Mapping[str, Any]) -> ModelUsage:
        """Return the ``usage`` of the API for one reply in the form that clients see, with its cost."""
        counts: dict[str, Any] = {name: _count(usage, name) for name in TOKENS}
        more = {
            "cache_creation_1h_input_tokens": _kept_for_an_hour(usage),
            "web_search_requests": _searches(usage),
        }
        counts |= {name: count for name, count in more.items() if count}
        basis: CostBasis = "table" if self.name(model) else "unknown"
        return cast(ModelUsage, {**counts, "cost_usd": self.cost(model, usage), "cost_basis": basis})

    def whole(self, reported: UsageByModel, counted: UsageByModel) -> dict[str, ModelUsage]:
        """Return the usage that was ``counted`` under the names under which an agent has ``reported`` it.

        The agent's names and the API's may differ in a date. The cost is ``reported`` if the agent knows the model, and
        the operator has given no price. It is the agent's own number only if it is all that there is.
        """
        names = {self.name(model) or model: model for model in reported}
        found: dict[str, ModelUsage] = {}
        for model, usage in counted.items():
            name = names.get(self.name(model) or model, model)
            said = reported.get(name)
            if said is not None and said["cost_basis"] == "reported" and _best(self.own, model) is None:
                usd = usage["cost_usd"] if self.name(model) else said["cost_usd"]
                usage = cast(ModelUsage, {**usage, "cost_usd": usd, "cost_basis": "reported"})
            found[name] = cast(ModelUsage, add_usage(found.get(name, {}), usage))
        return found

    def priced(self, model: str, usage: ModelUsage) -> ModelUsage:
        """Return the usage that an agent has reported, with the cost that holds here.

        That is the agent's own if it knows the model, unless the operator has given a price.
        """
        if usage["cost_basis"] == "reported" and _best(self.own, model) is None:
            return usage
        basis: CostBasis = "table" if self.name(model) else "unknown"
        return {**usage, "cost_usd": self.cost(model, as_the_api_has_it(usage)), "cost_basis": basis}

    def _price(self, model: str, prompt: int, *, fast: bool) -> Price:
        if known := _best(self.own, model):
            return self.own[known]
        known = _best(PRICES, model)
        if fast:
            return FAST
        if known is None:
            return DEAREST
        return LONG_PROMPTS.get(known, PRICES[known]) if prompt > LONG_PROMPT else PRICES[known]


LIST_PRICES = PriceTable()


def as_the_api_has_it(usage: ModelUsage) -> dict[str, Any]:
    """Return a model's usage as the model API would report it for one reply."""
    return {
        **usage,
        "cache_creation": {"ephemeral_1h_input_tokens": usage.get("cache_creation_1h_input_tokens", 0)},
        "server_tool_use": {"web_search_requests": usage.get("web_search_requests", 0)},
    }


def _rest(known: str) -> str:
    """Return the pattern of what may follow. Behind a version that may be a date, but not the number of another one."""
    return r"(?![0-9a-z])(?!-[0-9]{1,2}(?![0-9]))" if known[-1].isdigit() else "(?![0-9a-z])"


def _best(prices: Mapping[str, Price], model: str) -> str | None:
    name = model.lower()
    fitting = [known for known in prices if re.match(re.escape(known.lower()) + _rest(known), name)]
    return max(fitting, key=len, default=None)


def _kept_for_an_hour(usage: Mapping[str, Any]) -> int:
    written = _count(usage, "cache_creation_input_tokens")
    return min(_count(usage.get("cache_creation"), "ephemeral_1h_input_tokens"), written)


def _searches(usage: Mapping[str, Any]) -> int:
    return _count(usage.get("server_tool_use"), "web_search_requests")


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return max(0, value) if isinstance(value, int) else 0

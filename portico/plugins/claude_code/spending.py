"""The tokens and the cost of a turn, as the CLI's ``result`` lines report them."""

from __future__ import annotations

from typing import Any, cast

from portico.core.events import Complete, unused, with_usage
from portico.core.prices import PriceTable
from portico.core.sums import summed
from portico.core.usage import TOKENS, ModelUsage, UsageByModel

Json = dict[str, Any]

_OF_A_MODEL = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_creation_input_tokens": "cacheCreationInputTokens",
    "cache_read_input_tokens": "cacheReadInputTokens",
}
MOST = 2.0**53
"""The largest number that is believed, of tokens or of dollars; above it, not every integer is a JSON number."""

_IF_ANY = {
    "cache_creation_1h_input_tokens": "cacheCreationEphemeral1hInputTokens",
    "web_search_requests": "webSearchRequests",
}


class Spending:
    """The spending of one CLI process, turn by turn.

    The ``usage`` of a result is only of the main conversation: without subagents and compaction, and 0 for a turn that
    was interrupted. ``model_usage_since_last_result`` has everything (2.1.330).
    """

    def __init__(self, prices: PriceTable, *, resumed: bool = False) -> None:
        self._prices = prices
        self._total = 0.0
        self._whole: Json | None = None if resumed else {}  # usage by model up to the last result, if it is known
        self._kept: list[Complete] = []

    def end(self, stop_reason: str, result: Json) -> Complete:
        """Return the end of a turn, with everything used since the last result."""
        kept, self._kept = self._kept, []
        return summed(self._end(stop_reason, result), kept)

    def keep(self, complete: Complete) -> None:
        """Keep the spending of a result that ends no turn for the next one that does."""
        self._kept.append(complete)

    def part(self, now: Any) -> Complete:
        """Return what was used since the last result; ``now`` is the usage of the whole conversation, by model.

        A process that goes on with an earlier conversation begins with its usage, so before its first result what is
        new is not known.
        """
        kept, self._kept = self._kept, []
        if self._whole is None or not isinstance(now, dict):
            return summed(unused("interrupted", known=False), kept)
        since = {
            name: _difference(model, self._whole.get(name)) for name, model in now.items() if isinstance(model, dict)
        }
        return summed(with_usage(unused("interrupted"), self._by_model(since)), kept)

    def _end(self, stop_reason: str, result: Json) -> Complete:
        difference = self._since_last(result)
        whole = result.get("modelUsage")
        self._whole = whole if isinstance(whole, dict) else None
        models = result.get("model_usage_since_last_result")
        if not isinstance(models, dict):
            usage = result.get("usage")
            usage = usage if isinstance(usage, dict) else {}
            counted = {name: usage[name] for name in TOKENS if isinstance(usage.get(name), int)}
            return Complete(type="complete", stop_reason=stop_reason, usage=counted, cost_usd=difference)
        return with_usage(unused(stop_reason), self._by_model(models))

    def _by_model(self, models: Json) -> UsageByModel:
        return {
            str(name): self._prices.priced(str(name), _read(model))
            for name, model in models.items()
            if isinstance(model, dict)
        }

    def _since_last(self, result: Json) -> float:
        """Return the difference of two totals.

        A resumed process continues from where the last one ended, if that ended well (after a SIGKILL it begins at 0).
        So the difference is used only if the CLI does not report the usage itself.
        """
        total = result.get("total_cost_usd")
        total = _amount(total, self._total)
        before, self._total = self._total, total
        return max(0.0, total - before)


def _read(model: Json) -> ModelUsage:
    """Read the usage of one model. The CLI guesses the cost of a model that it does not know (``costBasis``)."""
    counts = {name: _count(model.get(theirs)) for name, theirs in _OF_A_MODEL.items()}
    counts |= {name: count for name, theirs in _IF_ANY.items() if (count := _count(model.get(theirs)))}
    basis = "unknown" if model.get("costBasis") == "unknown" else "reported"
    return cast(ModelUsage, {**counts, "cost_usd": _amount(model.get("costUSD")), "cost_basis": basis})


def _difference(model: Json, before: Any) -> Json:
    earlier = before if isinstance(before, dict) else {}
    names = (*_OF_A_MODEL.values(), *_IF_ANY.values(), "costUSD")
    return {**model, **{name: max(0.0, _amount(model.get(name)) - _amount(earlier.get(name))) for name in names}}


def _count(value: Any) -> int:
    return int(_amount(value))


def _amount(value: Any, otherwise: float = 0.0) -> float:
    """Return a number of something that there can be, as the CLI may be of any version."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST:
        return float(value)
    return otherwise

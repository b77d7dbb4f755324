"""The tokens that were used and their cost, by model, and how they add up over models and turns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NotRequired, get_args

from typing_extensions import TypedDict  # pydantic makes schemas of these, and needs it before Python 3.12

CostBasis = Literal["reported", "table", "unknown"]
"""The source of a cost: the agent, which knows the model; our table of prices; or a guess, as nobody knows the model.

They are in order: a sum has the last one of its parts."""

BASES: tuple[CostBasis, ...] = get_args(CostBasis)

TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""The kinds of tokens, which don't overlap. ``input_tokens`` are those that the cache did not serve or take."""


class ModelUsage(TypedDict):
    """The tokens that one model has used, and their cost in US dollars.

    ``cache_creation_1h_input_tokens`` says how many of ``cache_creation_input_tokens`` are kept for an hour, which
    costs more. It and ``web_search_requests`` are missing where there were none.
    """

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    cache_creation_1h_input_tokens: NotRequired[int]
    web_search_requests: NotRequired[int]
    cost_usd: float
    cost_basis: CostBasis


UsageByModel = Mapping[str, ModelUsage]


def add_usage(total: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add up numbers with the same name, also in nested mappings; for any other value, keep the newer one.

    Of two ``cost_basis`` keep the less certain one.
    """
    result = dict(total)
    for name, value in more.items():
        before = result.get(name)
        if isinstance(value, Mapping):
            result[name] = add_usage(before if isinstance(before, Mapping) else {}, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result[name] = value + (before if isinstance(before, int | float) else 0)
        elif name == "cost_basis":
            result[name] = least_certain(basis for basis in (before, value) if basis is not None)
        else:
            result[name] = value
    return result


def least_certain(bases: Iterable[Any]) -> CostBasis:
    """Return the basis of a sum of costs; without any it is ``reported``, as nothing was guessed."""
    return BASES[max((BASES.index(basis) if basis in BASES else len(BASES) - 1 for basis in bases), default=0)]


def tokens(usage: UsageByModel) -> dict[str, int]:
    """Return the tokens of all models together, by kind."""
    counts: list[Mapping[str, Any]] = list(usage.values())
    return {name: sum(model.get(name, 0) for model in counts) for name in TOKENS}


def cost(usage: UsageByModel) -> float:
    return math.fsum(model["cost_usd"] for model in usage.values())


def flaw_of_usage(usage: Any) -> str | None:
    """Return the reason why a value is not a `UsageByModel`, or None."""
    if not isinstance(usage, Mapping):
        return "it is no object"
    for name, model in usage.items():
        if not isinstance(name, str) or not isinstance(model, Mapping):
            return "a model's usage is no object"
        numbers = [model.get(each) for each in (*TOKENS, "cost_usd")]
        if not all(isinstance(n, int | float) and 0 <= n < math.inf for n in numbers):
            return f"the numbers of {name[:100]!r} are not all there, or make no sense"
        if model.get("cost_basis") not in BASES:
            return f"the cost_basis of {name[:100]!r} is none of {', '.join(BASES)}"
    return None

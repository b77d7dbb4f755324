"""The sum of what several parts of one turn have used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from portico.core.events import Complete
from portico.core.usage import ModelUsage, add_usage, least_certain


def summed(complete: Complete, others: Iterable[Complete]) -> Complete:
    """Return the end of a turn, with the spending of ``others`` that belong to it."""
    whole = complete
    for other in others:
        whole = Complete(
            type="complete",
            stop_reason=complete["stop_reason"],
            usage=add_usage(whole["usage"], other["usage"]),
            usage_by_model=cast(
                dict[str, ModelUsage], add_usage(whole.get("usage_by_model", {}), other.get("usage_by_model", {}))
            ),
            cost_usd=whole["cost_usd"] + other["cost_usd"],
            cost_basis=least_certain(end.get("cost_basis", "reported") for end in (whole, other)),
        )
    return cast(Complete, {**complete, **whole})

"""Prices, against what the CLI says of the same."""

from __future__ import annotations

from typing import Any

import pytest

from portico.core.prices import LIST_PRICES

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "usage", "usd"),
    [
        ("claude-opus-5-5", {"input_tokens": 40, "output_tokens": 64}, 0.00144),  # the CLI's own total_cost_usd
        ("claude-sonnet-4-5-20250929", {"input_tokens": MILLION}, 3.0),
        ("claude-sonnet-4-20250514", {"output_tokens": MILLION}, 15.0),
        ("claude-sonnet-5-5", {"cache_read_input_tokens": MILLION}, 0.1),
        ("claude-opus-4-20250514", {"input_tokens": MILLION}, 15.0),
        ("claude-opus-4", {"input_tokens": MILLION}, 15.0),
        ("claude-sonnet-4-9", {"input_tokens": MILLION}, 15.0),  # nobody knows it
        ("claude-opus-5-5[1m]", {"input_tokens": MILLION}, 4.0),
        ("claude-opus-4-5@20251101", {"input_tokens": MILLION}, 5.0),
        ("claude-haiku-5-5", {"input_tokens": 100_000}, 0.01),
        ("claude-haiku-5-5", {"input_tokens": 200_000}, 0.1),
        ("claude-opus-55", {"input_tokens": MILLION}, 15.0),  # not 5-5, nor 5: nobody knows it
        ("gpt-unheard-of", {"input_tokens": MILLION, "output_tokens": MILLION}, 90.0),
        ("", {"output_tokens": MILLION}, 75.0),
        ("claude-opus-5-5", {"speed": "fast", "output_tokens": MILLION}, 150.0),
        ("claude-opus-5-5", {"server_tool_use": {"web_search_requests": 3}}, 0.03),
        ("claude-opus-5-5", {"cache_creation_input_tokens": MILLION}, 5.0),
        (
            "claude-opus-5-5",
            {"cache_creation_input_tokens": MILLION, "cache_creation": {"ephemeral_1h_input_tokens": MILLION}},
            8.0,
        ),
        ("claude-opus-5-5", {"input_tokens": "many", "output_tokens": -5, "cache_creation": 3}, 0.0),
    ],
)
def test_what_it_costs(model: str, usage: dict[str, Any], usd: float) -> None:
    assert LIST_PRICES.cost(model, usage) == pytest.approx(usd)

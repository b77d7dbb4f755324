"""The CLI's reports of usage, of any version, as the end of a turn."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.core.flaws import flaw
from portico.core.prices import DEAREST, LIST_PRICES, PRICES, Price, PriceTable, as_the_api_has_it
from portico.core.usage import BASES, TOKENS, cost, tokens
from portico.plugins.claude_code.spending import Spending

COUNTS = st.integers(0, 10_000_000)
MODELS = st.dictionaries(
    st.sampled_from([*PRICES, "claude-nonsense-9"]),
    st.fixed_dictionaries(
        {
            "inputTokens": COUNTS,
            "outputTokens": COUNTS,
            "cacheReadInputTokens": COUNTS,
            "cacheCreationInputTokens": COUNTS,
            "cacheCreationEphemeral1hInputTokens": COUNTS,
            "webSearchRequests": st.integers(0, 50),
            "costBasis": st.sampled_from(["list", "managed", "unknown"]),
            "costUSD": st.floats(0, 1e6),
        }
    ),
    max_size=3,
)
MEMBERS = ("inputTokens", "outputTokens", "cacheReadInputTokens", "costUSD", "costBasis", "webSearchRequests")
ODD = st.one_of(st.none(), st.booleans(), st.text(), st.integers(), st.floats(), st.lists(st.integers()))


def result(models: Any, **more: Any) -> dict[str, Any]:
    return {"type": "result", "model_usage_since_last_result": models, **more}


@given(MODELS)
def test_the_whole_is_the_sum_of_its_models_and_a_cost_of_ours_is_tokens_times_prices(models: dict[str, Any]) -> None:
    end = Spending(LIST_PRICES).end("end_turn", result(models))
    by_model = end["usage_by_model"]
    assert end["usage"] == tokens(by_model) and end["cost_usd"] == cost(by_model)
    for name, said in models.items():
        found = by_model[name]
        assert found["input_tokens"] == said["inputTokens"] and found["output_tokens"] == said["outputTokens"]
        if said["costBasis"] != "unknown":
            assert (found["cost_basis"], found["cost_usd"]) == ("reported", said["costUSD"])
            continue
        assert found["cost_basis"] == ("table" if name in PRICES else "unknown")
        assert found["cost_usd"] == pytest.approx(LIST_PRICES.cost(name, as_the_api_has_it(found)))
    assert end["cost_basis"] == max((m["cost_basis"] for m in by_model.values()), key=BASES.index, default="reported")


@given(st.dictionaries(st.text(max_size=3), st.one_of(ODD, st.dictionaries(st.sampled_from(MEMBERS), ODD))))
def test_whatever_a_report_holds_its_end_of_a_turn_is_a_good_one(models: Any) -> None:
    end = Spending(LIST_PRICES).end("end_turn", result(models, total_cost_usd=models.get("x"), usage=models.get("y")))
    assert flaw(end) is None
    assert all(end["usage"][name] >= 0 for name in TOKENS)


def test_the_operators_price_comes_before_the_agents() -> None:
    usage = {"inputTokens": 1_000_000, "costUSD": 5.0, "costBasis": "list"}
    end = Spending(PriceTable({"claude-opus": Price(1, 2, 3)})).end("end_turn", result({"claude-opus-5": usage}))
    assert (end["cost_usd"], end["cost_basis"]) == (1.0, "table")


def test_a_result_that_ends_no_turn_counts_in_the_next() -> None:
    spending = Spending(LIST_PRICES)
    report = result({"m": {"inputTokens": 7, "costBasis": "unknown"}})
    spending.keep(spending.end("", report))
    end = spending.end("end_turn", report)
    assert end["usage"]["input_tokens"] == 14 and end["cost_usd"] == pytest.approx(14 * DEAREST.input / 1e6)
    assert end["stop_reason"] == "end_turn"

"""Tokens and cost as the real CLI reports them, without a gateway."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from portico.core.agent import Turn
from portico.core.prices import LIST_PRICES, PRICES, as_the_api_has_it
from portico.core.usage import TOKENS
from portico.plugins.demo.model_server import ServedModel
from tests.support.claude import driving, new_spec, script, started, tool, turn

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


async def test_the_cost_of_each_known_model_is_tokens_times_prices(model: ServedModel, tmp_path: Path) -> None:
    numbers = random.Random(11)
    seen = set()
    async with driving(tmp_path, api_key="k", base_url=model.url) as driver:
        spec = new_spec(tmp_path)
        async with started(driver, spec) as agent:
            for name in PRICES:
                usage = {each: numbers.randrange(2000) for each in TOKENS}
                hour = numbers.randrange(usage["cache_creation_input_tokens"] + 1)
                kept = {"ephemeral_1h_input_tokens": hour}
                kept["ephemeral_5m_input_tokens"] = usage["cache_creation_input_tokens"] - hour
                await agent.configure(spec.options.with_changes(model=name))
                query = script({"say": "x", "usage": {**usage, "cache_creation": kept}})
                end = (await turn(agent, Turn(name, query)))[-1]
                ((used, found),) = end["usage_by_model"].items()  # an old model may have become a newer one
                assert end["usage"] == usage and found["cost_basis"] == "reported"
                assert found["cost_usd"] == pytest.approx(LIST_PRICES.cost(used, as_the_api_has_it(found))), used
                seen.add(used)
    assert len(seen) > len(PRICES) / 2


async def test_a_turn_has_the_tokens_of_its_subagents(model: ServedModel, tmp_path: Path) -> None:
    helper = {"description": "x", "subagent_type": "general-purpose", "run_in_background": False}
    prompt = script({"say": "done", "usage": {"input_tokens": 5000}})
    async with driving(tmp_path, api_key="k", base_url=model.url) as driver:
        async with started(driver, new_spec(tmp_path, allowed_tools=("Agent", "Task"))) as agent:
            call = tool("Agent", prompt=prompt, **helper)
            events = await turn(agent, script({"tool": call, "usage": {"input_tokens": 1000}}, {"say": "all"}))
    assert events[-1]["usage"]["input_tokens"] == 6010

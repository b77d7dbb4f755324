"""Tokens and cost of turns and sessions, from the real CLI on a scripted model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.cli.client.top import spent_today
from portico.core.usage import TOKENS
from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, only, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

Step = dict[str, Any]

ALICE, BOB, ROOT = "alice-secret-alice", "bob-secret-bob-bob", "root-secret-root"


def used(tokens: int) -> dict[str, int]:
    return {"input_tokens": tokens, "output_tokens": 10}


def subagent(*steps: Step, background: bool = False) -> Step:
    given = {"description": "x", "subagent_type": "general-purpose", "run_in_background": background}
    return {"name": "Agent", "input": {**given, "prompt": script(*steps)}}


def adds_up(found: Event | dict[str, Any]) -> None:
    """The models' numbers make those of the whole."""
    models = found["usage_by_model"].values()
    for name in TOKENS:
        assert found["usage"][name] == sum(model[name] for model in models)
    assert found["cost_usd"] == pytest.approx(sum(model["cost_usd"] for model in models))


async def end(client: Talk, *steps: Step) -> Event:
    complete = only(await client.turn("s", script(*steps)), "complete")
    adds_up(complete)
    return complete


async def test_a_turn_counts_its_subagents_and_the_session_all_its_turns(client: Talk) -> None:
    await client.open(session_id="s", allowed_tools=["Agent", "Task"])
    helper = subagent({"say": "done", "usage": used(5000)})
    first = await end(client, {"tool": [helper, helper], "usage": used(1000)}, {"say": "all", "usage": used(1000)})
    assert first["usage"]["input_tokens"] == 12_000 and first["usage"]["output_tokens"] == 40
    assert first["cost_basis"] == "reported" and first["cost_usd"] == pytest.approx(0.0488)
    second = await end(client, {"say": "x", "usage": used(500)})
    assert second["usage"]["input_tokens"] == 500
    session = await client.session("s")
    adds_up(session)
    assert session["usage"]["input_tokens"] == 12_500 and session["cost_basis"] == "reported"
    assert session["cost_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])
    (model,) = session["usage_by_model"]
    assert list(first["usage_by_model"]) == [model] and model.startswith("claude-")


async def test_without_max_tokens_a_reply_may_be_as_long_as_the_cli_lets_it(
    client: Talk, server: RunningServer
) -> None:
    await client.open(session_id="s")
    await client.turn("s", "hello")
    body = server.model.requests[-1].body
    assert body is not None and body["max_tokens"] >= 32_000


async def test_an_interrupted_turn_and_a_compaction_are_counted(client: Talk, server: RunningServer) -> None:
    await client.open(session_id="s")
    await end(client, {"say": "x", "usage": used(100)})
    started = await client.start("s", script({"say": "a b c", "stall": 2, "usage": used(3000)}))
    await client.until("s", "delta", turn_id=started["turn_id"])
    await client.http.post("/sessions/s/interrupt")
    complete = await client.until("s", "complete", turn_id=started["turn_id"])
    server.model.release()
    assert complete["stop_reason"] == "interrupted" and complete["usage"]["input_tokens"] == 3000
    compacted = only(await client.turn("s", "/compact", commands=True), "complete")
    assert compacted["usage"]["output_tokens"] > 0 < compacted["cost_usd"]


async def test_a_background_subagent_counts_in_the_turn_that_its_end_begins(client: Talk) -> None:
    await client.open(session_id="s", allowed_tools=["Agent", "Task"])
    helper = subagent({"say": "a b c d", "gap_ms": 100, "usage": used(7000)}, background=True)
    before = await end(client, {"tool": helper, "usage": used(1000)}, {"say": "it runs", "usage": used(1000)})
    own = await client.until("s", "complete", before["seq"])
    session = await client.session("s")
    assert before["usage"]["input_tokens"] + own["usage"]["input_tokens"] == session["usage"]["input_tokens"] > 9000


async def test_the_cost_of_a_model_that_nobody_knows_is_a_guess_and_the_session_says_so(client: Talk) -> None:
    await client.open(session_id="s", model="claude-nonsense-9")
    complete = await end(client, {"say": "x", "usage": used(1000)})
    assert complete["cost_basis"] == "unknown" and complete["cost_usd"] == pytest.approx(0.015 + 0.00075)
    assert complete["usage_by_model"]["claude-nonsense-9"]["cost_basis"] == "unknown"
    await client.http.patch("/sessions/s", json={"model": "claude-haiku-5-5"})
    assert (await end(client, {"say": "x", "usage": used(1000)}))["cost_basis"] == "reported"
    session = await client.session("s")
    adds_up(session)
    assert session["cost_basis"] == "unknown"
    assert set(session["usage_by_model"]) == {"claude-nonsense-9", "claude-haiku-5-5"}


async def test_the_sums_outlive_the_server(tmp_path: Path) -> None:
    sessions: list[dict[str, Any]] = []
    for place, tokens in (("one", 1000), ("two", 500)):
        (tmp_path / place).mkdir()
        data = str(tmp_path / "data")
        async with running_server(tmp_path / place, PORTICO_DATA_DIR=data) as server, talk(server) as client:
            if not sessions:
                await client.open(session_id="s")
            await end(client, {"say": "x", "usage": used(tokens)})
            sessions.append(await client.session("s"))
    adds_up(sessions[1])
    assert [session["usage"]["input_tokens"] for session in sessions] == [1000, 1500]


async def test_what_a_killed_agent_has_used_is_in_the_turn_that_it_ended(client: Talk, server: RunningServer) -> None:
    await client.open(session_id="s", allowed_tools=["Bash"])
    sleep = {"name": "Bash", "input": {"command": "tail -f /dev/null"}}
    started = await client.start("s", script({"say": "x", "tool": sleep, "usage": used(3000)}))
    await client.until("s", "tool_use", turn_id=started["turn_id"])
    server.kill_agents()
    complete = await client.until("s", "complete", turn_id=started["turn_id"])
    adds_up(complete)
    assert complete["stop_reason"] == "error" and complete["usage"]["input_tokens"] == 3000
    assert complete["cost_basis"] == "table" and complete["cost_usd"] == pytest.approx(0.0122)
    assert (await end(client, {"say": "y", "usage": used(100)}))["usage"]["input_tokens"] == 100
    assert (await client.session("s"))["usage"]["input_tokens"] == 3100


async def test_nobody_knows_what_was_used_without_a_gateway_where_the_agent_or_the_server_was_killed(
    tmp_path: Path,
) -> None:
    places = {"PORTICO_DATA_DIR": str(tmp_path / "data"), "PORTICO_KEY_GATEWAY": "false"}
    sleep = {"name": "Bash", "input": {"command": "tail -f /dev/null"}}
    busy = script({"say": "x", "tool": sleep, "usage": used(3000)})
    (tmp_path / "one").mkdir()
    async with running_server(tmp_path / "one", **places) as server, talk(server) as client:
        for name in ("s", "t"):
            await client.open(session_id=name, allowed_tools=["Bash"])
        started = await client.start("s", busy)
        await client.until("s", "tool_use", turn_id=started["turn_id"])
        server.kill_agents()
        assert (await client.until("s", "complete", turn_id=started["turn_id"]))["cost_basis"] == "unknown"
        assert (await end(client, {"say": "y", "usage": used(100)}))["cost_basis"] == "reported"
        assert (await client.session("s"))["cost_basis"] == "unknown"
        started, waiting = await client.start("t", busy), await client.start("t", "later")
        await client.until("t", "tool_use", turn_id=started["turn_id"])
        server.process.kill()
        await server.process.wait()
    (tmp_path / "two").mkdir()
    async with running_server(tmp_path / "two", **places) as server, talk(server) as client:
        assert (await client.until("t", "complete", turn_id=started["turn_id"]))["cost_basis"] == "unknown"
        assert (await client.until("t", "complete", turn_id=waiting["turn_id"]))["cost_basis"] == "reported"


async def test_a_reply_that_was_cut_and_asked_for_again_is_paid_twice(client: Talk) -> None:
    await client.open(session_id="s")
    complete = await end(client, {"say": "a b c d", "cut": 2, "times": 1, "usage": used(1000)})
    assert complete["usage"]["input_tokens"] == 2000 and complete["cost_basis"] == "reported"


async def test_what_a_killed_server_has_used_is_in_the_turn_that_it_cut_off(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    tokens = {"PORTICO_DATA_DIR": data, "PORTICO_AUTH_TOKENS": f"alice:{ALICE}:admin"}
    (tmp_path / "one").mkdir()
    async with running_server(tmp_path / "one", **tokens) as server, talk(server, ALICE) as client:
        await client.open(session_id="s", allowed_tools=["Bash"])
        await end(client, {"say": "x", "usage": used(500)})
        sleep = {"name": "Bash", "input": {"command": "tail -f /dev/null"}}
        started = await client.start("s", script({"say": "x", "tool": sleep, "usage": used(3000)}))
        with anyio.fail_after(HANG_SECONDS):
            while "3000" not in await anyio.Path(data, "spending.json").read_text():
                await anyio.sleep(0.05)
        server.process.kill()
        await server.process.wait()
    (tmp_path / "two").mkdir()
    async with running_server(tmp_path / "two", **tokens) as server, talk(server, ALICE) as client:
        complete = await client.until("s", "complete", turn_id=started["turn_id"])
        assert complete["usage"]["input_tokens"] == 3000
        assert (await end(client, {"say": "y", "usage": used(100)}))["usage"]["input_tokens"] == 100
        session = await client.session("s")
        adds_up(session)
        assert session["usage"]["input_tokens"] == 3600


async def test_the_budget_of_a_session_ends_its_turn_and_can_be_raised(client: Talk, server: RunningServer) -> None:
    assert (await client.open(session_id="s", budget_usd=0.01, allowed_tools=["Bash"]))["budget_usd"] == 0.01
    tool = {"name": "Bash", "input": {"command": "true"}}
    dear = {"say": "dear", "tool": tool, "usage": used(3000)}
    turn = await client.turn("s", script(dear, {"say": "more"}))  # its second request is one too many
    assert only(turn, "error")["code"] == "budget_exceeded" and turn[-1]["stop_reason"] == "error"
    before = len(server.model.requests)
    turn = await client.turn("s", "hello")
    assert only(turn, "error")["code"] == "budget_exceeded" and "budget_usd" in only(turn, "error")["error"]
    assert len(server.model.requests) == before
    patched = (await client.http.patch("/sessions/s", json={"budget_usd": 1})).raise_for_status().json()
    assert patched["budget_usd"] == 1
    assert (await end(client, {"say": "fine"}))["stop_reason"] == "end_turn"
    for wrong in (0, -1, "1", 1e9):
        assert (await client.http.patch("/sessions/s", json={"budget_usd": wrong})).status_code == 422
    assert (await client.http.patch("/sessions/s", json={"budget_usd": None})).json()["budget_usd"] is None


@pytest.mark.parametrize("gateway", ["true", "false"])
async def test_a_turn_that_the_agent_begins_beyond_the_budget_ends_at_once(gateway: str, tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_KEY_GATEWAY=gateway) as server, talk(server) as client:
        await client.open(session_id="s", allowed_tools=["Bash"], budget_usd=0.005)
        task = {"name": "Bash", "input": {"command": "sleep 1", "run_in_background": True}}
        late = {"words": 300, "gap_ms": 20}  # the turn that the end of the task begins
        await client.turn("s", script({"tool": task, "usage": used(2000)}, {"say": "x"}, late))
        own = await client.until("s", "query", principal=None)
        complete = await client.until("s", "complete", turn_id=own["turn_id"])
        assert complete["stop_reason"] == "error"
        told = [e for e in await client.history("s") if e["type"] == "error" and e["turn_id"] == own["turn_id"]]
        assert [e["code"] for e in told] == ["budget_exceeded"]


async def test_model_prices_are_the_operators(tmp_path: Path) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text('{"claude-haiku-5-5": {"input": 1000, "output": 0, "cache_read": 0}}')
    limits = {"PORTICO_MODEL_PRICES": f"@{prices}", "PORTICO_BUDGET_USD_PER_DAY": "1.5"}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        await client.open(session_id="s", model="claude-haiku-5-5")
        complete = await end(client, {"say": "x", "usage": used(2000)})
        assert (complete["cost_usd"], complete["cost_basis"]) == (2.0, "table")
        assert only(await client.turn("s", "more"), "error")["code"] == "budget_exceeded"


async def test_sessions_metrics_and_what_a_principal_has_spent_agree(tmp_path: Path) -> None:
    tokens = {"PORTICO_AUTH_TOKENS": f"alice:{ALICE},bob:{BOB},root:{ROOT}:admin", "PORTICO_BUDGET_USD_PER_DAY": "9"}
    async with running_server(tmp_path, **tokens) as server, talk(server, ALICE) as alice, talk(server, BOB) as bob:
        for client, name in ((alice, "s"), (bob, "b")):
            await client.open(session_id=name)
            await client.turn(name, script({"say": "x", "usage": used(1000)}))
        await end(alice, {"say": "a b c", "cut": 1, "times": 1, "usage": used(1000)})
        cost = {client: (await client.session(name))["cost_usd"] for client, name in ((alice, "s"), (bob, "b"))}
        async with talk(server, ROOT) as root:
            seen = [(await client.http.get(f"{server.url}/metrics")).text for client in (alice, root)]
        spent = dict(spent_today(seen[1]))
        assert spent == {"alice": pytest.approx(cost[alice]), "bob": pytest.approx(cost[bob])}
        assert dict(spent_today(seen[0])) == {"alice": pytest.approx(cost[alice])} and "bob" not in seen[0]
        assert 'portico_budget_usd{principal="alice"} 9.0' in seen[0]
        assert (
            'portico_price_table_info{date="2026-11",own="0",source="the catalogue inside claude 2.1.330"} 1.0'
            in seen[0]
        )
        total = re.search(r'portico_cost_usd_total{basis="reported",model="claude-opus-5-5"} (.*)', seen[0])
        assert total is not None and float(total[1]) == pytest.approx(sum(cost.values()))
        assert 'portico_tokens_total{kind="input",model="claude-opus-5-5"} 4000.0' in seen[0]


async def test_without_a_gateway_a_spent_budget_refuses_the_next_turn(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_KEY_GATEWAY="off") as server, talk(server) as client:
        await client.open(session_id="s", budget_usd=0.01)
        await end(client, {"say": "x", "usage": used(3000)})
        before = len(server.model.requests)
        assert only(await client.turn("s", "more"), "error")["code"] == "budget_exceeded"
        assert len(server.model.requests) == before

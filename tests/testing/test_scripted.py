"""The scripted driver and the engine around it, as the author of a plugin uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import Decision
from portico.core.engine import Engine
from portico.core.errors import AgentFailed, AgentUnavailable, Conflict
from portico.core.events import AgentEvent, Delta
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn
from portico.testing.engine import scripted_engine
from portico.testing.scripted import Ask, Fail, Gate, Hang, ScriptedDriver, TakeUp, turn
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

ADA = Principal("ada")


def said(text: str) -> Delta:
    return Delta(type="delta", content=text)


async def ask(engine: Engine, content: str = "hello", **options: Any) -> str:
    return (await engine.query(ADA, "s", NewTurn(content, **options))).turn_id


async def events(engine: Engine, turn_id: str, *until: str) -> list[dict[str, Any]]:
    """Those of the turn, as soon as one is of a type in ``until``, or it is complete."""
    with anyio.fail_after(HANG_SECONDS):
        while True:
            history, _ = await engine.history(ADA, "s", after=0, limit=1000)
            found = [json.loads(event.data) for event in history if event.turn_id == turn_id]
            if {event["type"] for event in found} & {"complete", *until}:
                return found
            await anyio.sleep(0.005)


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in found]


async def test_the_events_of_the_script_come_turn_by_turn(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(said("one"), output_tokens=3), turn(said("two"), stop_reason="max_turns")])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s", model="m"))
        first = await events(engine, await ask(engine, "a"))
        assert [event.get("content") for event in first] == ["a", "one", None]
        assert first[-1]["usage"] == {"output_tokens": 3}
        assert (await events(engine, await ask(engine, "b")))[-1]["stop_reason"] == "max_turns"
        over = await events(engine, await ask(engine, "c"))
        assert (kinds(over), over[1]["code"]) == (["query", "error", "complete"], "script_over")
    assert [[turn.content for turn in agent.turns] for agent in driver.agents] == [["a", "b", "c"]]
    assert driver.specs[0].options.model == "m"
    assert (driver.closes, driver.agents[0].closes) == (1, 1)


async def test_a_gate_holds_until_it_is_opened_or_the_turn_is_interrupted(tmp_path: Path) -> None:
    gate, shut = Gate(), Gate()
    driver = ScriptedDriver([turn(gate, said("x")), turn(shut, said("x"))])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        turn_id = await ask(engine)
        await gate.reached.wait()
        assert kinds(await events(engine, turn_id, "query")) == ["query"]
        gate.open()
        assert kinds(await events(engine, turn_id)) == ["query", "delta", "complete"]
        turn_id = await ask(engine)
        await shut.reached.wait()
        await engine.interrupt(ADA, "s")
        assert (await events(engine, turn_id))[-1]["stop_reason"] == "interrupted"
    assert driver.agents[0].interrupts == 1


async def test_what_is_asked_waits_for_its_answer(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(Ask("Write", {"a": 1}, "r1"), said("x")), turn(Ask("Write"))])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        turn_id = await ask(engine)
        asked = (await events(engine, turn_id, "permission_request"))[-1]
        assert (asked["request_id"], asked["tool_name"], asked["input"]) == ("r1", "Write", {"a": 1})
        await engine.answer(ADA, "s", "r1", Decision("allow"))
        assert kinds(await events(engine, turn_id))[-2:] == ["delta", "complete"]
        turn_id = await ask(engine)
        await events(engine, turn_id, "permission_request")
        await engine.interrupt(ADA, "s")
        assert kinds(await events(engine, turn_id))[-2:] == ["permission_resolved", "complete"]
    assert driver.agents[0].decisions == [("r1", Decision("allow"))]


async def test_a_message_is_taken_up(tmp_path: Path) -> None:
    gate, end = Gate(), Gate()
    driver = ScriptedDriver([turn(gate, TakeUp(), said("x"), end)])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        turn_id = await ask(engine)
        await gate.reached.wait()
        gate.open()
        steering = await ask(engine, "more", if_busy="steer")
        assert (await events(engine, steering))[-1]["stop_reason"] == "steered"
        end.open()
        assert kinds(await events(engine, turn_id)) == ["query", "notice", "delta", "complete"]
    assert [turn.content for turn in driver.agents[0].steered] == ["more"]


@pytest.mark.parametrize(
    ("step", "code"),
    [(Fail(AgentFailed("gone", code="broken")), "broken"), (Fail(ValueError("a fault")), "driver_failed")],
)
async def test_a_failure_ends_the_turn_and_the_next_has_a_new_agent(tmp_path: Path, step: Fail, code: str) -> None:
    driver = ScriptedDriver([[said("x"), step], turn(said("y"))])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        failed = await events(engine, await ask(engine))
        assert [event["code"] for event in failed if event["type"] == "error"] == [code]
        assert (await events(engine, await ask(engine)))[-1]["stop_reason"] == "end_turn"
    assert len(driver.agents) == 2


async def test_a_turn_that_hangs_ends_with_its_agent(tmp_path: Path) -> None:
    driver = ScriptedDriver([[said("x"), Hang()]])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        turn_id = await ask(engine)
        await events(engine, turn_id, "delta")
        await engine.interrupt(ADA, "s")
        await driver.agents[0].close()
        assert kinds(await events(engine, turn_id))[-1] == "complete"


async def test_starts_fail_and_wait_as_they_are_told(tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver([turn(said("x"))], starts=[Fail(AgentUnavailable("no", code="no_cli")), gate, Hang()])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        assert (await events(engine, await ask(engine)))[1]["code"] == "no_cli"
        turn_id = await ask(engine)
        await gate.reached.wait()
        assert not driver.agents
        gate.open()
        assert (await events(engine, turn_id))[-1]["stop_reason"] == "end_turn"
        driver.agents[0].die()
        turn_id = await ask(engine)
        with anyio.fail_after(HANG_SECONDS):
            while len(driver.specs) < 3:
                await anyio.sleep(0.005)
        await engine.interrupt(ADA, "s")
        assert (await events(engine, turn_id))[-1]["stop_reason"] == "interrupted"


async def test_an_agent_may_begin_by_itself_and_die_between_turns(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(said("x")), turn(said("y"))])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await events(engine, await ask(engine))
        driver.agents[0].begin("because")
        with anyio.fail_after(HANG_SECONDS):
            while len(driver.agents[0].turns) < 2:
                await anyio.sleep(0.005)
        driver.agents[0].die()
        with anyio.fail_after(HANG_SECONDS):
            while driver.agents[0].closes < 1:
                await anyio.sleep(0.005)
        history, _ = await engine.history(ADA, "s", after=0, limit=1000)
        queries = [json.loads(event.data) for event in history if event.type == "query"]
        assert (queries[1]["content"], queries[1]["principal"]) == ("because", None)


async def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver([turn(gate)], capabilities=())
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await ask(engine)
        await gate.reached.wait()
        with pytest.raises(Conflict) as refused:
            await engine.interrupt(ADA, "s")
        assert refused.value.code == "not_supported"


async def test_what_a_test_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    driver = ScriptedDriver([[Hang()]])
    with pytest.raises(ZeroDivisionError):
        async with scripted_engine(tmp_path, driver=driver) as engine:
            await engine.create(ADA, NewSession(session_id="s"))
            await ask(engine)
            raise ZeroDivisionError
    assert driver.closes == 1


async def test_limits_are_those_of_the_policy_and_agents_may_be_pooled(tmp_path: Path) -> None:
    driver = ScriptedDriver()
    async with scripted_engine(tmp_path, driver=driver, pool_size=1, max_sessions=1) as engine:
        with anyio.fail_after(HANG_SECONDS):
            while not driver.agents:
                await anyio.sleep(0.005)
        await engine.create(ADA, NewSession(session_id="s", model="m"))
        with anyio.fail_after(HANG_SECONDS):
            while not driver.agents[0].claims:
                await anyio.sleep(0.005)
        assert driver.agents[0].claims[0].options.model == "m"
    with pytest.raises(TypeError, match="no_such_limit"):
        async with scripted_engine(tmp_path, no_such_limit=1):
            pass


def test_a_turn_needs_no_end() -> None:
    steps: list[AgentEvent] = [said("x")]
    assert [step["type"] for step in turn(*steps) if isinstance(step, dict)] == ["delta", "complete"]

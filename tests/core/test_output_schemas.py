"""An agent that was started with another output schema than the turn needs is replaced, and at no other time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import AgentOptions
from portico.core.engine import Engine
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionChanges
from portico.testing.engine import scripted_engine
from portico.testing.scripted import CAPABILITIES, Gate, ScriptedDriver, Step, turn
from tests.support.limits import HANG_SECONDS

ADA = Principal("ada")
SCHEMA = {"type": "object", "properties": {"a": {}}}
OTHER = {"type": "object", "properties": {"b": {}}}

pytestmark = pytest.mark.anyio


class FixedSchema(ScriptedDriver):
    def __init__(self, turns: Iterable[Sequence[Step]], **options: Any) -> None:
        super().__init__(turns, capabilities=CAPABILITIES | {"output_schema"}, **options)

    def fixed(self, options: AgentOptions) -> AgentOptions:
        return AgentOptions(output_schema=options.output_schema)


async def ends(engine: Engine, count: int) -> list[dict[str, Any]]:
    """The events of the session, once so many turns are over."""
    with anyio.fail_after(HANG_SECONDS):
        while True:
            events, _ = await engine.history(ADA, "s", after=0, limit=1000)
            found = [json.loads(event.data) for event in events]
            if sum(event["type"] == "complete" for event in found) == count and found[-1].get("state") == "idle":
                return found
            await anyio.sleep(0.005)


async def ask(engine: Engine, count: int, **request: Any) -> list[dict[str, Any]]:
    await engine.query(ADA, "s", NewTurn("go", **request))
    return await ends(engine, count)


async def test_the_agent_is_replaced_where_the_schema_changes_and_nowhere_else(tmp_path: Path) -> None:
    driver = FixedSchema([turn() for _ in range(7)])
    async with scripted_engine(tmp_path, driver=driver, max_processes=1) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await ask(engine, 1)
        await ask(engine, 2, output_schema=SCHEMA)
        await ask(engine, 3, output_schema=dict(SCHEMA))
        await engine.change(ADA, "s", SessionChanges({"permission_mode": "plan"}))
        await ask(engine, 4, output_schema=SCHEMA)
        driver.agents[-1].begin("by itself")
        events = await ends(engine, 5)  # its own turn, with the schema that it has
        assert [event["principal"] for event in events if event["type"] == "query"][-1] is None
        await ask(engine, 6, output_schema=OTHER)
        events = await ask(engine, 7)
    assert [spec.options.output_schema for spec in driver.specs] == [None, SCHEMA, OTHER, None]
    assert [len(agent.turns) for agent in driver.agents] == [1, 4, 1, 1]
    assert all(agent.closes for agent in driver.agents)
    assert {spec.agent_id for spec in driver.specs} == {driver.specs[0].agent_id}
    names = [event["name"] for event in events if event["type"] == "notice"]
    assert names == [], "neither lost nor restarted: its context is kept"


async def test_a_turn_that_is_interrupted_as_its_agent_is_replaced_ends(tmp_path: Path) -> None:
    gate = Gate()
    driver = FixedSchema([turn(), turn()], starts=[None, gate])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await ask(engine, 1)
        await engine.query(ADA, "s", NewTurn("go", output_schema=SCHEMA))
        with anyio.fail_after(HANG_SECONDS):
            await gate.reached.wait()
        await engine.interrupt(ADA, "s")
        events = await ends(engine, 2)
        assert events[-2]["stop_reason"] == "interrupted"
        await ask(engine, 3)


async def test_a_sessions_schema_is_its_agents_from_the_start(tmp_path: Path) -> None:
    driver = FixedSchema([turn()])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s", output_schema=SCHEMA))
        await ask(engine, 1)
    assert [spec.options.output_schema for spec in driver.specs] == [SCHEMA]

"""The permission mode that an agent is in is the session's, and one that the operator allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import AgentOptions, AgentSpec
from portico.core.engine import Engine
from portico.core.errors import AgentFailed
from portico.core.events import AgentMode
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionChanges
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.engine import scripted_engine
from portico.testing.scripted import CAPABILITIES, Ask, Gate, ScriptedAgent, ScriptedDriver, turn
from tests.support.limits import HANG_SECONDS

ADA = Principal("ada")
DEFAULT_OR_PLAN = ("default", "plan")

pytestmark = pytest.mark.anyio


def in_mode(mode: str) -> AgentMode:
    return AgentMode(type="permission_mode", permission_mode=mode)


async def history(engine: Engine) -> list[dict[str, Any]]:
    events, _ = await engine.history(ADA, "s", after=0, limit=1000)
    return [json.loads(event.data) for event in events]


async def until(ready: Callable[[], bool]) -> None:
    with anyio.fail_after(HANG_SECONDS):
        while not ready():
            await anyio.sleep(0.005)


async def do(engine: Engine, query: str = "go") -> list[dict[str, Any]]:
    """A turn, from its query to its complete, and what is told of the session meanwhile."""
    before = len(await history(engine))
    accepted = await engine.query(ADA, "s", NewTurn(query))
    with anyio.fail_after(HANG_SECONDS):
        while True:
            found = (await history(engine))[before:]
            if any(event["type"] == "complete" and event["turn_id"] == accepted.turn_id for event in found):
                return found
            await anyio.sleep(0.005)


def told(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The changes of the permission mode, and why."""
    return [(event["permission_mode"], event["reason"]) for event in events if "permission_mode" in event]


def only(events: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    (event,) = [event for event in events if event["type"] == wanted]
    return event


async def mode(engine: Engine) -> str:
    return (await engine.session(ADA, "s"))["permission_mode"]


async def set_mode(engine: Engine, mode: str) -> None:
    assert (await engine.change(ADA, "s", SessionChanges({"permission_mode": mode})))["permission_mode"] == mode


async def test_a_mode_of_the_agents_own_is_the_sessions_until_somebody_sets_another(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(in_mode("plan")), turn()])
    async with scripted_engine(tmp_path, driver=driver, permission_modes=DEFAULT_OR_PLAN) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        events = await do(engine)
        assert told(events) == [("plan", "agent")] and await mode(engine) == "plan"
        assert all("turn_id" not in event for event in events if event["type"] == "session")
        await set_mode(engine, "default")
        assert told(await history(engine)) == [("plan", "agent"), ("default", "changed")]
        await do(engine)
        assert [options.permission_mode for options in driver.agents[0].configured] == ["default"]


async def test_it_is_kept_over_a_restart_of_the_server(tmp_path: Path) -> None:
    for turns, expected in (([turn(in_mode("plan"))], "default"), ([turn()], "plan")):
        driver = ScriptedDriver(turns)
        async with scripted_engine(tmp_path, driver=driver, store=SqliteStore(tmp_path / "p.db")) as engine:
            if expected == "default":
                await engine.create(ADA, NewSession(session_id="s"))
            assert await mode(engine) == expected
            await do(engine)
            assert driver.specs[0].options.permission_mode == expected


async def test_what_is_set_in_a_turn_is_not_lost_by_what_the_agent_does_in_it(tmp_path: Path) -> None:
    gates = Gate(), Gate()
    driver = ScriptedDriver([each for gate in gates for each in (turn(gate, in_mode("plan")), turn())])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        for gate in gates:
            await engine.query(ADA, "s", NewTurn("go"))
            await gate.reached.wait()
            asked = "acceptEdits"  # the second time it is what it was
            await set_mode(engine, asked)
            gate.open()
            await do(engine)
            assert await mode(engine) == asked
            assert driver.agents[0].configured[-1].permission_mode == asked
        assert len(driver.agents[0].configured) == 2


async def test_what_is_set_reaches_an_agent_that_has_not_said_where_it_is(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(), turn(), turn()])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await do(engine)
        await set_mode(engine, "default")
        await do(engine)
        await do(engine)
        assert [options.permission_mode for options in driver.agents[0].configured] == ["default"]


async def test_an_agent_in_a_mode_that_is_not_allowed_is_taken_back_and_gets_no_leave_in_it(tmp_path: Path) -> None:
    gate = Gate()
    bad, good = in_mode("acceptEdits"), in_mode("default")
    driver = ScriptedDriver([turn(bad, Ask("Write"), good, Ask("Bash", request_id="asked"), gate)])
    async with scripted_engine(tmp_path, driver=driver, permission_modes=DEFAULT_OR_PLAN) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("go"))
        await until(lambda: bool(driver.agents and driver.agents[0].configured))
        assert [options.permission_mode for options in driver.agents[0].configured] == ["default"]
        with anyio.fail_after(HANG_SECONDS):
            while not (pending := (await engine.session(ADA, "s"))["pending_permissions"]):
                await anyio.sleep(0.005)
        assert [request["request_id"] for request in pending] == ["asked"]  # where it is back, people are asked again
        assert [decision.behavior for _, decision in driver.agents[0].decisions] == ["deny"]
        events = await history(engine)
        assert only(events, "notice")["name"] == "mode_not_allowed"
        assert only(events, "notice")["detail"] == {"permission_mode": "acceptEdits", "back_to": "default"}
        assert only(events, "permission_resolved")["reason"] == "not_allowed"
        assert told(events) == [] and await mode(engine) == "default"


async def test_one_that_ends_its_turn_there_is_taken_back_all_the_same(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(in_mode("acceptEdits"))])
    async with scripted_engine(tmp_path, driver=driver, permission_modes=DEFAULT_OR_PLAN) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await do(engine)
        await until(lambda: bool(driver.agents[0].configured))
        assert {options.permission_mode for options in driver.agents[0].configured} == {"default"}


class Stubborn(ScriptedAgent):
    async def configure(self, options: AgentOptions) -> None:
        raise AgentFailed("It will not.", code="agent_error")


class StubbornDriver(ScriptedDriver):
    async def start(self, spec: AgentSpec) -> ScriptedAgent:
        agent = Stubborn(spec, self._script)
        self.agents.append(agent)
        return agent


AWAY = in_mode("acceptEdits")


@pytest.mark.parametrize(
    "driver",
    [
        StubbornDriver([turn(AWAY, Gate())]),
        ScriptedDriver([turn(AWAY, Gate())], capabilities=CAPABILITIES - {"set_permission_mode"}),
        ScriptedDriver([turn(*[AWAY] * 6, Gate())]),  # it comes back, and leaves again
    ],
    ids=["refuses", "cannot", "again"],
)
async def test_one_that_does_not_come_back_is_stopped(tmp_path: Path, driver: ScriptedDriver) -> None:
    async with scripted_engine(tmp_path, driver=driver, permission_modes=DEFAULT_OR_PLAN) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        events = await do(engine)
        assert only(events, "error")["code"] == "mode_not_allowed"
        assert only(events, "complete")["stop_reason"] == "error"
        await until(lambda: driver.agents[0].closes > 0)


async def test_what_is_allowed_no_more_is_taken_from_sessions_that_have_it(tmp_path: Path) -> None:
    store = tmp_path / "p.db"
    before: Mapping[str, Any] = {"permission_modes": ("acceptEdits", "plan"), "disallowed_tools": ("WebFetch",)}
    async with scripted_engine(tmp_path, driver=ScriptedDriver(), store=SqliteStore(store), **before) as engine:
        tools = ("Read", "Bash(ls:*)", "Write")
        await engine.create(
            ADA,
            NewSession(session_id="s", permission_mode="acceptEdits", allowed_tools=tools, disallowed_tools=("LS",)),
        )
    after: Mapping[str, Any] = {
        "permission_modes": ("plan",),
        "allowed_tools": ("Read", "Bash"),
        "disallowed_tools": ("Bash(rm:*)",),
    }
    driver = ScriptedDriver([turn()])
    async with scripted_engine(tmp_path, driver=driver, store=SqliteStore(store), **after) as engine:
        await do(engine)
        assert await mode(engine) == "plan"
        assert told(await history(engine)) == [("plan", "not_allowed")]
        options = driver.specs[0].options
        assert (options.permission_mode, options.allowed_tools) == ("plan", ("Read", "Bash(ls:*)"))
        assert options.disallowed_tools == ("Bash(rm:*)", "WebFetch", "LS")

"""Calls that a session passes to its agent beside turns."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from portico.core import calls
from portico.core.errors import AgentFailed, AgentUnavailable, Conflict, Exhausted, PorticoError, Unavailable
from portico.core.events import Delta
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn
from portico.testing.engine import scripted_engine
from portico.testing.scripted import CAPABILITIES, Fail, Gate, Hang, ScriptedDriver, turn
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

ADA = Principal("ada")
USE = {"model": "m", "tokens": 1}
HELLO = Delta(type="delta", content="hello")


async def test_a_call_is_answered_while_a_turn_runs_and_while_another_call_hangs(tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver([turn(HELLO, gate)], abilities={"context": USE, "mcp": Hang()})
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "t"))
        await gate.reached.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.mcp, ADA, "s")
            with anyio.fail_after(HANG_SECONDS):
                assert await engine.context(ADA, "s") == USE
            tasks.cancel_scope.cancel()
        gate.open()
        with anyio.fail_after(HANG_SECONDS):
            while (await engine.session(ADA, "s"))["state"] != "idle":
                await anyio.sleep(0.01)
        assert len(driver.agents) == 1


async def test_a_session_without_an_agent_starts_one_for_a_call_and_the_next_turn_takes_it(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(HELLO)], abilities={"commands": []})
    async with scripted_engine(tmp_path, driver=driver, pool_size=0) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        assert await engine.commands(ADA, "s") == []
        await engine.query(ADA, "s", NewTurn("hello", "t"))
        reader = await engine.reader(ADA, "s", turn_id="t")
        with anyio.fail_after(HANG_SECONDS):
            while await reader.read():
                pass
        assert len(driver.agents) == 1


@pytest.mark.parametrize(
    ("ability", "code"),
    [
        (Fail(AgentFailed("it has exited")), "agent_unavailable"),
        (Fail(Conflict("not now", code="busy")), "busy"),
        (Fail(RuntimeError("a fault of the driver")), "agent_unavailable"),
        (Hang(), "agent_busy"),
    ],
)
async def test_an_agent_that_does_not_answer_fails_the_call_alone(
    tmp_path: Path, ability: object, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(ability, Hang):
        monkeypatch.setattr(calls, "CALL_SECONDS", 0.2)
    driver = ScriptedDriver([turn(HELLO)], abilities={"context": ability, "commands": []})
    async with scripted_engine(tmp_path, driver=driver, pool_size=0) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        with anyio.fail_after(HANG_SECONDS), pytest.raises(PorticoError) as refused:
            await engine.context(ADA, "s")
        assert refused.value.code == code
        assert await engine.commands(ADA, "s") == []
        assert (await engine.session(ADA, "s"))["state"] == "idle"


async def test_an_agent_that_cannot_be_started_fails_the_call_and_the_session_goes_on(tmp_path: Path) -> None:
    driver = ScriptedDriver(starts=[Fail(AgentUnavailable("no such program"))], abilities={"commands": []})
    async with scripted_engine(tmp_path, driver=driver, pool_size=0) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        with anyio.fail_after(HANG_SECONDS), pytest.raises(Unavailable, match="no such program"):
            await engine.commands(ADA, "s")
        assert await engine.commands(ADA, "s") == []


async def test_a_close_ends_the_calls_that_are_under_way(tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver(abilities={"context": gate}, starts=[Hang()])
    codes: list[str] = []

    async def ask(session_id: str) -> None:
        with pytest.raises(PorticoError) as refused:
            await engine.context(ADA, session_id)
        codes.append(refused.value.code)

    async with scripted_engine(tmp_path, driver=driver, pool_size=0) as engine:
        await engine.create(ADA, NewSession(session_id="starting"))
        await engine.create(ADA, NewSession(session_id="asked"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "starting")
            with anyio.fail_after(HANG_SECONDS):
                while not driver.specs:
                    await anyio.sleep(0.01)
            tasks.start_soon(ask, "asked")
            with anyio.fail_after(HANG_SECONDS):
                await gate.reached.wait()
                await engine.close(ADA, "starting")
                await engine.close(ADA, "asked")
    assert len(codes) == 2 and set(codes) <= {"session_closed", "agent_unavailable"}, codes


async def test_no_more_than_some_calls_are_under_way(tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver(abilities={"context": gate})
    async with scripted_engine(tmp_path, driver=driver) as engine, anyio.create_task_group() as tasks:
        await engine.create(ADA, NewSession(session_id="s"))
        for _ in range(calls.MAX_CALLS):
            tasks.start_soon(engine.context, ADA, "s")
        await gate.reached.wait()
        with pytest.raises(Exhausted):
            await engine.context(ADA, "s")
        gate.open()


async def test_a_driver_without_the_ability_says_so(tmp_path: Path) -> None:
    driver = ScriptedDriver(capabilities=CAPABILITIES - {"context"})
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        with pytest.raises(Conflict) as refused:
            await engine.context(ADA, "s")
        assert refused.value.code == "not_supported"
        assert not any(agent.called for agent in driver.agents)

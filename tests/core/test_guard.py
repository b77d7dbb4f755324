"""A driver that does not keep to what is agreed costs its own turns, and nobody else's."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core import guard, turn
from portico.core.agent import AgentSpec, Decision
from portico.core.engine import Engine
from portico.core.errors import Conflict
from portico.core.events import Delta
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionChanges
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.echo.echo_agent import EchoAgent
from portico.plugins.memory_store.store import MemoryStore
from portico.testing import scripted
from portico.testing.background import background
from portico.testing.engine import generous_policy, scripted_engine
from portico.testing.scripted import Fail, Gate, Hang, ScriptedDriver
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

ADA = Principal("ada")
HELLO = Delta(type="delta", content="hello")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "START_SECONDS", 0.2)
    monkeypatch.setattr(guard, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(turn, "INTERRUPT_GRACE", 0.2)


async def ask(engine: Engine, text: str = "hello", session_id: str = "s") -> tuple[str, str | None]:
    """Runs one turn; how it ended, and the code of its error."""
    accepted = await engine.query(ADA, session_id, NewTurn(text))
    reader = await engine.reader(ADA, session_id, after=accepted.first_seq - 1, turn_id=accepted.turn_id)
    events = []
    with anyio.fail_after(HANG_SECONDS):
        while batch := await reader.read():
            events += [json.loads(event.data) for event in batch]
    codes = [event["code"] for event in events if event["type"] == "error"]
    return events[-1]["stop_reason"], codes[0] if codes else None


async def test_what_a_driver_must_not_raise_ends_the_turn_in_an_error(tmp_path: Path) -> None:
    driver = ScriptedDriver([scripted.turn(HELLO, Fail(ZeroDivisionError("no"))), scripted.turn(HELLO)])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        assert await ask(engine) == ("error", "driver_failed")
        assert await ask(engine) == ("end_turn", None)


class OddDriver(EchoDriver):
    """Starts as it is told to."""

    name = "odd"

    def __init__(self, *starts: str) -> None:
        super().__init__()
        self._starts = list(starts)

    async def start(self, spec: AgentSpec) -> EchoAgent:
        match self._starts.pop(0) if self._starts else "well":
            case "hang":
                await anyio.sleep_forever()
            case "raise":
                raise ZeroDivisionError("no")
        return await super().start(spec)


async def test_a_start_that_hangs_or_raises_ends_the_turn_in_an_error(tmp_path: Path) -> None:
    async with scripted_engine(tmp_path, driver=OddDriver("hang", "raise")) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        assert await ask(engine) == ("error", "driver_hung")
        assert await ask(engine) == ("error", "driver_failed")
        assert await ask(engine) == ("end_turn", None)


async def test_an_agent_that_hangs_is_left_when_its_turn_is_interrupted(tmp_path: Path) -> None:
    driver = ScriptedDriver([scripted.turn(HELLO, Hang()), scripted.turn(HELLO)])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        async with anyio.create_task_group() as tasks:
            ended: list[tuple[str, str | None]] = []

            async def first() -> None:
                ended.append(await ask(engine))

            tasks.start_soon(first)
            while not driver.agents or not driver.agents[0].turns:
                await anyio.sleep(0.01)
            await engine.interrupt(ADA, "s")
        assert ended == [("interrupted", None)]
        assert await ask(engine) == ("end_turn", None)


class DeafAgent(scripted.ScriptedAgent):
    """Stops for nobody, and takes for ever to close."""

    async def interrupt(self) -> None:
        await anyio.sleep_forever()

    async def close(self) -> None:
        await anyio.sleep_forever()


class DeafDriver(ScriptedDriver):
    async def start(self, spec: AgentSpec) -> scripted.ScriptedAgent:
        await super().start(spec)
        agent = self.agents[-1] = DeafAgent(spec, self.agents[-1]._script)
        return agent


async def test_an_agent_that_not_even_closes_is_left(tmp_path: Path) -> None:
    driver = DeafDriver([scripted.turn(HELLO, Gate()), scripted.turn(HELLO)])
    with anyio.fail_after(HANG_SECONDS):
        async with scripted_engine(tmp_path, driver=driver, turn_timeout=0.2) as engine:
            await engine.create(ADA, NewSession(session_id="s"))
            assert await ask(engine) == ("timeout", "turn_timeout")
            assert await ask(engine) == ("end_turn", None)


async def test_what_a_driver_cannot_is_refused_and_never_called(tmp_path: Path) -> None:
    driver = ScriptedDriver([scripted.turn(HELLO, Gate()), scripted.turn(HELLO)], capabilities=())
    async with scripted_engine(tmp_path, driver=driver, turn_timeout=0.3, allow_client_agents=True) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("one", "one"))
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: engine.interrupt(ADA, "s"),
            lambda: engine.query(ADA, "s", NewTurn("x", if_busy="interrupt")),
            lambda: engine.query(ADA, "s", NewTurn("x", if_busy="steer")),
            lambda: engine.query(ADA, "s", NewTurn([{"type": "document"}])),
            lambda: engine.query(ADA, "s", NewTurn("x", output_schema={"type": "object"})),
            lambda: engine.create(ADA, NewSession(output_schema={"type": "object"})),
            lambda: engine.create(ADA, NewSession(effort="low")),
            lambda: engine.create(ADA, NewSession(fallback_model="m")),
            lambda: engine.create(ADA, NewSession(add_dirs=("/srv",))),
            lambda: engine.create(ADA, NewSession(agents={"a": {}})),
            lambda: engine.change(ADA, "s", SessionChanges({"effort": "low"})),
            lambda: engine.answer(ADA, "s", "r", Decision("deny")),
        ]
        for call in refused:
            with pytest.raises(Conflict) as caught:
                await call()
            assert caught.value.code == "not_supported"
        # It cannot be interrupted: so its time limit stops it, and the next one has forgotten what was said.
        assert await ask(engine) == ("end_turn", None)
        events, _ = await engine.history(ADA, "s", after=0, limit=1000)
        ends = [json.loads(event.data)["stop_reason"] for event in events if event.type == "complete"]
        assert ends == ["timeout", "end_turn"]
        assert "context_lost" in [json.loads(event.data)["name"] for event in events if event.type == "notice"]
        assert driver.agents[0].interrupts == 0 and driver.agents[0].closes


BAD = [
    "no event",
    {"content": "x"},
    {"type": "party"},
    {"type": ["delta"], "content": "x"},
    {"type": "delta"},
    {"type": "delta", "content": "x", "seq": 77},
    {"type": "session", "state": "closed"},
    {"type": "message", "role": "assistant", "content": [{"type": "text", "text": object()}]},
    {"type": "complete", "stop_reason": "end_turn"},
    {"type": "complete", "stop_reason": "end_turn", "usage": None, "cost_usd": 0.0},
    {"type": "complete", "stop_reason": "end_turn", "usage": {}, "cost_usd": "0.1"},
    {"type": "complete", "stop_reason": "end_turn", "usage": {}, "cost_usd": float("nan")},
]


@pytest.mark.parametrize("event", BAD, ids=[str(number) for number in range(len(BAD))])
async def test_an_event_that_is_none_ends_the_turn_in_an_error(tmp_path: Path, event: Any) -> None:
    driver = ScriptedDriver([[HELLO, event], scripted.turn(HELLO)])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        assert await ask(engine) == ("error", "driver_failed")
        assert await ask(engine) == ("end_turn", None)
        events, _ = await engine.history(ADA, "s", after=0, limit=1000)
        assert [json.loads(one.data)["seq"] for one in events] == list(range(1, len(events) + 1))


async def test_a_driver_is_known_by_the_name_that_it_is_registered_by(tmp_path: Path) -> None:
    driver = ScriptedDriver([scripted.turn(HELLO)])
    policy = generous_policy(tmp_path)
    engine = Engine(
        store=MemoryStore(), drivers={"other": driver}, default_driver="other", default_model=None, policy=policy
    )
    async with background() as tasks:
        await tasks.start(engine.run)
        assert (await engine.create(ADA, NewSession(session_id="s")))["driver"] == "other"
        assert await ask(engine) == ("end_turn", None)

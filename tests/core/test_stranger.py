"""A plugin that raises what is nobody's to raise costs what it does itself, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from portico.core.agent import AgentSpec
from portico.core.engine import Engine
from portico.core.errors import StoreFailed, Unavailable
from portico.core.events import Delta, Event
from portico.core.principal import Callers, Principal
from portico.core.requests import NewSession, NewTurn, SessionView
from portico.core.sessions import Sessions
from portico.core.store import SessionRecord
from portico.core.stranger import Strange, strangers
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.echo.echo_agent import EchoAgent
from portico.plugins.memory_store.store import MemoryStore
from portico.server.serving import Serving
from portico.testing import scripted
from portico.testing.engine import scripted_engine
from portico.testing.scripted import Fail, ScriptedDriver
from tests.support.limits import HANG_SECONDS

ADA = Principal("ada")
HELLO = Delta(type="delta", content="hello")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()], ids=repr),
]


async def outcome(engine: Engine, session_id: str = "s") -> str:
    accepted = await engine.query(ADA, session_id, NewTurn("hello"))
    reader = await engine.reader(ADA, session_id, after=accepted.first_seq - 1, turn_id=accepted.turn_id)
    last: Event | None = None
    with anyio.fail_after(HANG_SECONDS):
        while batch := await reader.read():
            last = batch[-1]
    assert last is not None
    return str(last.type)


async def test_what_is_raised_by_hand_is_an_error_and_a_cancellation_is_one(error: BaseException) -> None:
    with pytest.raises(Strange), strangers():
        raise error
    with anyio.move_on_after(0.01) as scope, strangers():
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            with strangers():
                await anyio.sleep_forever()
    with pytest.raises(ZeroDivisionError), strangers():
        raise ZeroDivisionError


async def test_an_agent(tmp_path: Path, error: BaseException) -> None:
    driver = ScriptedDriver([scripted.turn(HELLO, Fail(error)), scripted.turn(HELLO)])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        assert await outcome(engine) == "complete"
        assert await outcome(engine) == "complete"
        assert not engine.readiness()


async def test_a_driver(tmp_path: Path, error: BaseException) -> None:
    class Odd(EchoDriver):
        first = True

        async def start(self, spec: AgentSpec) -> EchoAgent:
            if self.first:
                self.first = False
                raise error
            return await super().start(spec)

    async with scripted_engine(tmp_path, driver=Odd()) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        assert await outcome(engine) == "complete"
        assert await outcome(engine) == "complete"


async def test_an_observer(tmp_path: Path, error: BaseException) -> None:
    class Odd:
        calls = 0

        async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
            self.calls += 1
            raise error

    odd = Odd()
    async with scripted_engine(tmp_path, observers={"odd": odd}) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        assert await outcome(engine) == "complete"
        assert await outcome(engine) == "complete"
    assert odd.calls > 1


async def test_a_store(tmp_path: Path, error: BaseException) -> None:
    class Odd(MemoryStore):
        failing = False

        async def append(
            self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
        ) -> None:
            if self.failing:
                raise error
            await super().append(session_id, expected_seq, events, record)

    store = Odd()
    async with scripted_engine(tmp_path, store=store) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        store.failing = True
        with pytest.raises(StoreFailed):
            await engine.query(ADA, "s", NewTurn("hello"))
        store.failing = False
        assert await outcome(engine) == "complete"


async def test_an_authenticator(error: BaseException) -> None:
    class Odd:
        name = "odd"

        async def authenticate(self, secret: str | None) -> Principal | None:
            raise error

    with pytest.raises(Unavailable):
        await Callers([Odd()]).principal("x")


async def test_a_transport(tmp_path: Path, error: BaseException) -> None:
    class Odd:
        name = "odd"

        async def serve(self, engine: Sessions, *, task_status: TaskStatus[str]) -> None:
            task_status.started("odd:here")
            await anyio.lowlevel.checkpoint()
            raise error

    class Good:
        name = "good"

        async def serve(self, engine: Sessions, *, task_status: TaskStatus[str]) -> Any:
            task_status.started("good:here")
            await anyio.sleep_forever()

    async with scripted_engine(tmp_path) as engine, anyio.create_task_group() as tasks:
        running = Serving(engine, {"odd": Odd(), "good": Good()})
        await running.start(tasks)
        with anyio.fail_after(HANG_SECONDS):
            while not engine.failed:
                await anyio.lowlevel.checkpoint()
        assert not running.over.is_set() and list(engine.failed) == ["transport odd"]
        tasks.cancel_scope.cancel()

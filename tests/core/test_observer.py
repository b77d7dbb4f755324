"""Observers are told everything, once, in order; and nobody notices what goes wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from portico.core import observer
from portico.core.engine import Engine
from portico.core.events import Event
from portico.core.observer import Observer
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionView
from portico.testing.engine import scripted_engine

pytestmark = pytest.mark.anyio

ADA = Principal("ada")


class Notebook:
    """Writes down what it is told, and takes its time."""

    def __init__(self, pause: float = 0) -> None:
        self.told: dict[str, list[Event]] = {}
        self.owners: set[str] = set()
        self.calls = 0
        self._pause = pause

    async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
        self.calls += 1
        await anyio.sleep(self._pause)
        self.owners.add(session["owner"])
        self.told.setdefault(session["session_id"], []).extend(events)


class Broken:
    calls = 0

    async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
        self.calls += 1
        raise RuntimeError("broken")


class Hanging:
    calls = 0

    async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
        self.calls += 1
        await anyio.sleep_forever()


async def ask(engine: Engine, session_id: str, count: int) -> Sequence[Event]:
    await engine.create(ADA, NewSession(session_id=session_id))
    for n in range(count):
        turn = await engine.query(ADA, session_id, NewTurn(json.dumps({"deltas": 20}), f"t{n}"))
        reader = await engine.reader(ADA, session_id, after=turn.first_seq - 1, turn_id=turn.turn_id)
        while await reader.read():
            pass
    events, _ = await engine.history(ADA, session_id, after=0, limit=10_000)
    return events


@pytest.mark.parametrize("pause", [0, 0.01])
async def test_all_sessions_are_told_of_whole_and_in_order(tmp_path: Path, pause: float) -> None:
    notebook = Notebook(pause)
    seen: dict[str, Sequence[Event]] = {}
    async with scripted_engine(tmp_path, observers={"notebook": notebook}) as engine:

        async def one(name: str) -> None:
            seen[name] = await ask(engine, name, 3)

        async with anyio.create_task_group() as tasks:
            for name in ("a", "b", "c"):
                tasks.start_soon(one, name)
    assert notebook.owners == {"ada"}
    for name, events in seen.items():  # also what was written while the engine stopped
        assert notebook.told[name][: len(events)] == list(events)
        assert [event.seq for event in notebook.told[name]] == list(range(1, len(notebook.told[name]) + 1))


async def test_who_is_slow_is_told_much_at_once(tmp_path: Path) -> None:
    notebook = Notebook(0.2)
    async with scripted_engine(tmp_path, observers={"notebook": notebook}) as engine:
        events = await ask(engine, "s", 20)
        assert len(events) > 400
    assert notebook.told["s"][: len(events)] == list(events)
    assert notebook.calls < 20


async def test_an_observer_that_raises_or_hangs_is_nobodys_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "OBSERVE_SECONDS", 0.05)
    broken, hanging, notebook = Broken(), Hanging(), Notebook()
    observers: dict[str, Observer] = {"broken": broken, "hanging": hanging, "notebook": notebook}
    with anyio.fail_after(20):
        async with scripted_engine(tmp_path, observers=observers) as engine:
            events = await ask(engine, "s", 3)
            assert [event.type for event in events].count("complete") == 3
            before = broken.calls, hanging.calls
            assert before[0] and before[1]
            await anyio.sleep(0.1)
            await ask(engine, "later", 1)
            await anyio.sleep(0.1)
            assert broken.calls > before[0] and hanging.calls > before[1]
    assert notebook.told["s"][: len(events)] == list(events)


async def test_a_session_that_is_deleted_meanwhile_holds_nothing_up(tmp_path: Path) -> None:
    notebook = Notebook(0.05)
    async with scripted_engine(tmp_path, observers={"notebook": notebook}) as engine:
        for _ in range(3):
            await ask(engine, "s", 1)
            await engine.close(ADA, "s", purge=True)
        events = await ask(engine, "t", 1)
    assert notebook.told["t"][: len(events)] == list(events)

"""Observers are told everything, once, in order; and nobody notices what goes wrong with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core import observer
from portico.core.engine import Engine
from portico.core.errors import StoreFailed
from portico.core.events import Event
from portico.core.feed import TAIL_BYTES
from portico.core.observer import Observer
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionView
from portico.core.store import READ_BYTES
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.engine import scripted_engine
from tests.support.limits import HANG_SECONDS

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


async def test_a_call_under_way_is_waited_for_when_the_engine_stops(tmp_path: Path) -> None:
    notebook = Notebook(0.3)
    async with scripted_engine(tmp_path, observers={"notebook": notebook}) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        with anyio.fail_after(HANG_SECONDS):
            while not notebook.calls:  # and then it takes its time
                await anyio.sleep(0.001)
    assert notebook.told["s"][0].type == "session"


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
    with anyio.fail_after(HANG_SECONDS):
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


class Unreadable(MemoryStore):
    failing = False

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        if self.failing:
            raise StoreFailed("the disk is gone")
        return await super().read(session_id, after, limit, max_bytes)


async def test_what_the_store_cannot_read_for_a_while_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "RETRY_SECONDS", 0.05)
    store, notebook = Unreadable(), Notebook(0.1)
    async with scripted_engine(tmp_path, store=store, observers={"notebook": notebook}) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        store.failing = True
        query = json.dumps({"deltas": 40, "size": TAIL_BYTES // 8})  # more than is kept in memory
        turn = await engine.query(ADA, "s", NewTurn(query, "t"))
        while (await engine.query(ADA, "s", NewTurn(query, "t"))).state != "complete":
            await anyio.sleep(0.01)
        await anyio.sleep(0.2)
        store.failing = False
    seqs = [event.seq for event in notebook.told["s"]]
    assert seqs == list(range(1, len(seqs) + 1)) and len(seqs) > turn.first_seq + 40


async def test_a_session_that_is_deleted_meanwhile_holds_nothing_up(tmp_path: Path) -> None:
    notebook = Notebook(0.05)
    async with scripted_engine(tmp_path, observers={"notebook": notebook}) as engine:
        for _ in range(3):
            await ask(engine, "s", 1)
            await engine.close(ADA, "s", purge=True)
        events = await ask(engine, "t", 1)
    assert notebook.told["t"][: len(events)] == list(events)


class Library(Notebook):
    """Keeps its notebook in a house that has to be opened and closed; with a task of its own in it."""

    def __init__(self, enter: Exception | float = 0, leave: Exception | float = 0) -> None:
        super().__init__()
        self.diary: list[str] = []
        self._enter = enter
        self._leave = leave

    async def __aenter__(self) -> None:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(anyio.sleep_forever)
        self.diary.append("entered")
        try:
            await self._raise_or_sleep(self._enter)
        except BaseException:
            await self._end(*sys.exc_info())
            raise

    async def __aexit__(self, *reason: Any) -> None:
        try:
            await self._end(*reason)
        finally:
            await self._raise_or_sleep(self._leave)
            self.diary.append("left")

    async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
        self.diary.append("told")
        await super().observe(session, events)

    async def _end(self, *reason: Any) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(*reason)

    async def _raise_or_sleep(self, what: Exception | float) -> None:
        if isinstance(what, Exception):
            raise what
        await anyio.sleep(what)


async def test_one_that_is_a_context_manager_is_entered_first_and_left_last(tmp_path: Path) -> None:
    library = Library(leave=0.05)
    async with scripted_engine(tmp_path, observers={"library": library}) as engine:
        events = await ask(engine, "s", 2)
    assert library.told["s"][: len(events)] == list(events)
    assert (library.diary[0], library.diary[-1]) == ("entered", "left")
    assert set(library.diary[1:-1]) == {"told"}


@pytest.mark.parametrize("enter", [RuntimeError("broken"), 1000])
async def test_one_that_cannot_be_entered_is_told_nothing_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enter: Exception | float
) -> None:
    monkeypatch.setattr(observer, "OBSERVE_SECONDS", 0.05)
    library, notebook = Library(enter), Notebook()
    with anyio.fail_after(HANG_SECONDS):
        async with scripted_engine(tmp_path, observers={"library": library, "notebook": notebook}) as engine:
            await ask(engine, "s", 1)
            await anyio.sleep(0.1)
            events = await ask(engine, "later", 1)
    assert library.diary == ["entered"]
    assert notebook.told["later"][: len(events)] == list(events)


@pytest.mark.parametrize("leave", [RuntimeError("broken"), 1000])
async def test_one_that_cannot_be_left_does_not_keep_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Exception | float
) -> None:
    monkeypatch.setattr(observer, "LEAVE_SECONDS", 0.05)
    library = Library(leave=leave)
    with anyio.fail_after(HANG_SECONDS):
        async with scripted_engine(tmp_path, observers={"library": library}) as engine:
            await ask(engine, "s", 1)
    assert library.told and "left" not in library.diary

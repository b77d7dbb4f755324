"""Two who use the same ids at once, in any order and at any speed, never see or change anything of each other's."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from portico.core.agent import Decision
from portico.core.engine import Engine
from portico.core.errors import PorticoError
from portico.core.events import Event
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionChanges, SessionView
from portico.core.store import EventStore
from portico.plugins.memory_store.store import MemoryStore
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.engine import scripted_engine

pytestmark = pytest.mark.anyio

IDS = ("a", "b")
TURNS = ("t", "u", "v")
REFUSALS = {
    *("session_not_found", "session_exists", "session_closed", "turn_not_found", "not_queued", "not_running"),
    *("queue_full", "request_not_found", "after_too_large"),
}


class Unsteady:
    """A store whose calls take any time, before they are done and after."""

    def __init__(self, store: EventStore, chance: random.Random) -> None:
        self._store = store
        self._chance = chance

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._pass_time()
            result = await getattr(self._store, name)(*args, **kwargs)
            await self._pass_time()
            return result

        return call

    async def _pass_time(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 4, 30))):
            await anyio.lowlevel.checkpoint()


class Witness:
    """An observer: each session is one principal's, and so is everything that is told of it."""

    def __init__(self) -> None:
        self.calls = 0
        self.wrong: list[tuple[str, Sequence[Event]]] = []

    async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
        self.calls += 1
        if foreign(events, session["owner"]) or session["title"] != session["owner"]:
            self.wrong.append((session["owner"], events))


def foreign(events: Sequence[Event], name: str) -> list[Event]:
    return [event for event in events if event.type == "query" and json.loads(event.data)["principal"] != name]


class User:
    """Does anything at all, and looks at everything that comes back."""

    def __init__(self, engine: Engine, name: str, chance: random.Random) -> None:
        self.done = 0
        self._engine = engine
        self._who = Principal(name)
        self._chance = chance

    async def act(self, count: int) -> None:
        actions = (
            self._create,
            self._change,
            self._ask,
            self._read,
            self._follow,
            self._list,
            self._steer,
            self._close,
        )
        for _ in range(count):
            try:
                await self._chance.choice(actions)(self._chance.choice(IDS))
                self.done += 1
            except PorticoError as error:
                assert error.code in REFUSALS, error
            await anyio.lowlevel.checkpoint()

    def _look(self, session: SessionView) -> None:
        assert (session["owner"], session["title"]) == (self._who.name, self._who.name)
        assert session["metadata"].get("by") in (None, self._who.name)

    async def _create(self, session_id: str) -> None:
        self._look(await self._engine.create(self._who, NewSession(session_id=session_id, title=self._who.name)))

    async def _change(self, session_id: str) -> None:
        changes = SessionChanges({"title": self._who.name, "metadata": {"by": self._who.name}})
        self._look(await self._engine.change(self._who, session_id, changes))

    async def _ask(self, session_id: str) -> None:
        turn = NewTurn(self._chance.choice(("hello", '{"deltas": 30}')), self._chance.choice((None, *TURNS)))
        await self._engine.query(self._who, session_id, turn)

    async def _read(self, session_id: str) -> None:
        self._look(await self._engine.session(self._who, session_id))
        events, _ = await self._engine.history(self._who, session_id, after=0, limit=1000)
        assert not foreign(events, self._who.name)
        await self._engine.pending(self._who, session_id)

    async def _follow(self, session_id: str) -> None:
        reader = await self._engine.reader(self._who, session_id, turn_id=self._chance.choice((None, *TURNS)))
        with anyio.move_on_after(self._chance.choice((0.0, 0.001, 0.02))):
            while events := await reader.read():
                assert not foreign(events, self._who.name)
                await anyio.lowlevel.checkpoint()

    async def _list(self, session_id: str) -> None:
        for session in (await self._engine.sessions(self._who))[0]:
            self._look(session)

    async def _steer(self, session_id: str) -> None:
        if self._chance.random() < 0.5:
            await self._engine.interrupt(self._who, session_id)
        elif self._chance.random() < 0.5:
            await self._engine.withdraw(self._who, session_id, self._chance.choice(TURNS))
        else:
            await self._engine.answer(self._who, session_id, "r", Decision("allow"))

    async def _close(self, session_id: str) -> None:
        await self._engine.close(self._who, session_id, purge=self._chance.random() < 0.8)


def make_store(kind: str, folder: Path) -> EventStore:
    return MemoryStore() if kind == "memory" else SqliteStore(folder / "portico.db")


async def use(folder: Path, kind: str, seed: int, count: int, caplog: pytest.LogCaptureFixture) -> None:
    chance, witness = random.Random(seed), Witness()
    store = cast(EventStore, Unsteady(make_store(kind, folder), chance))
    async with scripted_engine(folder, store=store, observers={"witness": witness}, session_timeout=0.01) as engine:
        users = [User(engine, name, chance) for name in ("alice", "bob") for _ in range(4)]
        async with anyio.create_task_group() as tasks:
            for user in users:
                tasks.start_soon(user.act, count)
    assert witness.calls and not witness.wrong
    assert min(sum(user.done for user in users[:4]), sum(user.done for user in users[4:])) > count / 4
    assert not caplog.records  # such as that the store did not take something, or that a session failed


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("seed", range(2))
async def test_who_uses_the_same_ids_sees_and_changes_its_own(
    kind: str, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await use(tmp_path, kind, seed, 60, caplog)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("seed", range(2, 12))
async def test_who_uses_the_same_ids_for_long_sees_and_changes_its_own(
    kind: str, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await use(tmp_path, kind, seed, 400, caplog)

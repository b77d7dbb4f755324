"""A request reaches the session that it was allowed for, however long it waits, and never the next one of that id.

Alice's session is purged and Bob makes one of the same id, each time at the very moment at which a call of hers, or of
an admin's, waits: a store holds it there until the test lets go.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import Decision
from portico.core.engine import Engine
from portico.core.errors import Conflict, NotAllowed, NotFound, PorticoError, SessionGone, StoreFailed
from portico.core.events import Event
from portico.core.feed import Feed
from portico.core.life import Life
from portico.core.principal import Principal
from portico.core.reader import Reader
from portico.core.requests import NewSession, NewTurn, SessionChanges, SessionView
from portico.core.source import Source
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.background import background
from portico.testing.engine import generous_policy, scripted_engine
from portico.testing.scripted import Ask, Gate, ScriptedDriver, turn
from portico.testing.store import event, record
from tests.support.held import Holds
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

ALICE, BOB, ROOT = Principal("alice"), Principal("bob"), Principal("root", admin=True)

Call = Callable[[Engine, Principal], Awaitable[object]]

CALLS: Mapping[str, Call] = {
    "session": lambda engine, who: engine.session(who, "s"),
    "bind": lambda engine, who: engine.bind(who, "s"),
    "identity": lambda engine, who: engine.identity(who, "s"),
    "change": lambda engine, who: engine.change(who, "s", SessionChanges({"title": "taken"})),
    "close": lambda engine, who: engine.close(who, "s"),
    "purge": lambda engine, who: engine.close(who, "s", purge=True),
    "query": lambda engine, who: engine.query(who, "s", NewTurn("mine now")),
    "known turn": lambda engine, who: engine.query(who, "s", NewTurn("mine now", "t")),
    "withdraw": lambda engine, who: engine.withdraw(who, "s", "waits"),
    "interrupt": lambda engine, who: engine.interrupt(who, "s"),
    "answer": lambda engine, who: engine.answer(who, "s", "r", Decision("allow")),
    "pending": lambda engine, who: engine.pending(who, "s"),
    "reader": lambda engine, who: engine.reader(who, "s"),
    "reader of a turn": lambda engine, who: engine.reader(who, "s", turn_id="t"),
    "resume": lambda engine, who: engine.resume(who, "s", 1),
    "event": lambda engine, who: engine.event(who, "s", 1),
    "history": lambda engine, who: engine.history(who, "s", after=0, limit=100),
}

WAITS = [
    *((name, State.DORMANT, "get", 1) for name in CALLS),
    *((name, State.CLOSED, "get", 1) for name in CALLS),
    ("change", State.DORMANT, "get", 2),
    ("query", State.DORMANT, "get", 2),
    ("known turn", State.DORMANT, "turn", 1),
    ("withdraw", State.DORMANT, "turn", 1),
    ("reader of a turn", State.DORMANT, "turn", 1),
    ("resume", State.DORMANT, "event", 1),
    ("resume", State.DORMANT, "turn", 1),
    ("resume", State.DORMANT, "event", 2),
    ("resume", State.DORMANT, "turn", 2),
    ("event", State.DORMANT, "event", 1),
    ("history", State.DORMANT, "read", 1),
]
"""Every wait of a call for the store: the session's state, and which call of which method it is."""


def alices(state: State = State.DORMANT, **fields: Any) -> SessionRecord:
    return record("s", **{"owner": "alice", "driver": "scripted", "state": state, "title": "alice's", **fields})


async def put(store: EventStore, state: State = State.DORMANT) -> None:
    """Alice's session, in which a turn is over."""
    await store.create(alices(state))
    events = [event(1, "query", "t"), event(2, "delta", "t", b'{"alice": "one"}'), event(3, "complete", "t")]
    await store.append("s", 0, events, alices(state, turns=1))


def bobs_script() -> ScriptedDriver:
    return ScriptedDriver([turn(), turn(Ask("Bash", request_id="r"), stop_reason="end_turn"), turn()])


async def replace_session(engine: Engine) -> None:
    """Alice purges her session, and Bob makes his, with a turn that is over, one that asks, and one that waits."""
    await engine.close(ALICE, "s", purge=True)
    await engine.create(BOB, NewSession(session_id="s", title="bob's"))
    await engine.query(BOB, "s", NewTurn("bob's first", "t"))
    reader = await engine.reader(BOB, "s", turn_id="t")
    while await reader.read():
        pass
    await engine.query(BOB, "s", NewTurn("bob's second", "asks"))
    while not await engine.pending(BOB, "s"):
        await anyio.sleep(0.001)
    await engine.query(BOB, "s", NewTurn("bob's third", "waits"))


async def all_of_bobs(engine: Engine) -> tuple[SessionView, Sequence[Event]]:
    events, _ = await engine.history(BOB, "s", after=0, limit=1000)
    return await engine.session(BOB, "s"), events


@asynccontextmanager
async def holding(folder: Path, **options: Any) -> AsyncIterator[tuple[Engine, Holds]]:
    options.setdefault("driver", bobs_script())
    holds = Holds(MemoryStore())
    with anyio.fail_after(HANG_SECONDS):
        async with scripted_engine(folder, store=holds.store, **options) as engine:
            yield engine, holds


class Attempt:
    """A call, and what became of it."""

    def __init__(self, call: Callable[[], Awaitable[object]]) -> None:
        self._call = call
        self.result: object = None
        self.error: PorticoError | None = None

    async def run(self) -> None:
        try:
            self.result = await self._call()
        except PorticoError as error:
            self.error = error

    def assert_unknown(self) -> None:
        """It was told just what it would be told of a session that there never was."""
        assert isinstance(self.error, NotFound), (self.error, self.result)
        assert (self.error.code, self.error.detail) == ("session_not_found", "there is no session 's'")
        assert not self.error.extra


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("who", [ALICE, ROOT], ids=lambda who: who.name)
@pytest.mark.parametrize(("name", "state", "method", "nth"), WAITS, ids=lambda value: str(value).replace(" ", "-"))
async def test_what_waits_for_the_store_does_nothing_to_the_next_session_of_the_id(
    tmp_path: Path, name: str, state: State, method: str, nth: int, who: Principal, late: bool
) -> None:
    async with holding(tmp_path) as (engine, holds):
        await put(holds.store, state)
        hold = holds.hold(method, nth=nth, late=late)
        attempt = Attempt(lambda: CALLS[name](engine, who))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.run)
            await hold.reached.wait()
            await replace_session(engine)
            before = await all_of_bobs(engine)
            hold.release()
        attempt.assert_unknown()
        assert await all_of_bobs(engine) == before
        kept = await holds.store.get("s")
        assert kept is not None and (kept.owner, kept.title) == ("bob", "bob's")


async def test_changes_that_queue_behind_another_do_nothing_to_the_next_session_of_the_id(tmp_path: Path) -> None:
    async with holding(tmp_path) as (engine, holds):
        await put(holds.store)
        hold = holds.hold("get", nth=2)  # of the first change, which has the lock by then
        attempts = [Attempt(lambda: CALLS["change"](engine, ALICE)) for _ in range(20)]
        async with anyio.create_task_group() as tasks:
            for attempt in attempts:
                tasks.start_soon(attempt.run)
            await hold.reached.wait()
            await replace_session(engine)
            before = await all_of_bobs(engine)
            hold.release()
        for attempt in attempts:
            attempt.assert_unknown()
        assert await all_of_bobs(engine) == before


async def test_a_second_purge_does_not_delete_the_next_session_of_the_id(tmp_path: Path) -> None:
    gate = Gate()
    async with holding(tmp_path, driver=ScriptedDriver([turn(gate)])) as (engine, holds):
        await engine.create(ALICE, NewSession(session_id="s"))
        await engine.query(ALICE, "s", NewTurn("hello"))
        await gate.reached.wait()  # so that each of them has to wait for the end of the turn
        second = holds.hold("delete", nth=2)
        purges = [Attempt(lambda: CALLS["purge"](engine, ALICE)) for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            for purge in purges:
                tasks.start_soon(purge.run)
            while all(purge.error is None for purge in purges) and not second.reached.is_set():
                await anyio.sleep(0.001)
            await engine.create(BOB, NewSession(session_id="s"))
            second.release()
        assert await holds.store.get("s") is not None
        (refused,) = [purge for purge in purges if purge.error is not None]
        refused.assert_unknown()
        assert (await engine.session(BOB, "s"))["state"] == "idle"


async def test_until_a_purge_is_done_the_id_is_unknown_and_taken(tmp_path: Path) -> None:
    async with holding(tmp_path) as (engine, holds):
        await put(holds.store)
        for late in (False, True):  # before and after it is gone from the store
            hold = holds.hold("delete", late=late)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: engine.close(ALICE, "s", purge=True))
                await hold.reached.wait()
                for name, call in CALLS.items():
                    attempt = Attempt(lambda call=call: call(engine, ALICE))  # type: ignore[misc]
                    await attempt.run()
                    assert attempt.error is not None, name
                    attempt.assert_unknown()
                with pytest.raises(Conflict) as refused:
                    await engine.create(BOB, NewSession(session_id="s"))
                assert refused.value.code == "session_exists"
                hold.release()
            await engine.create(BOB, NewSession(session_id="s"))
            await engine.close(BOB, "s", purge=True)
            await put(holds.store)


async def test_a_purge_that_the_store_refuses_can_be_tried_again(tmp_path: Path) -> None:
    class Full(MemoryStore):
        failing = True

        async def delete(self, session_id: str) -> None:
            if self.failing:
                raise StoreFailed("the disk is gone")
            await super().delete(session_id)

    store = Full()
    async with scripted_engine(tmp_path, store=store, driver=ScriptedDriver()) as engine:
        await put(store)
        with pytest.raises(StoreFailed):
            await engine.close(ALICE, "s", purge=True)
        with pytest.raises(Conflict):
            await engine.create(BOB, NewSession(session_id="s"))
        events, _ = await engine.history(ALICE, "s", after=0, limit=10)
        assert [each.type for each in events] == ["query", "delta", "complete", "session"]
        store.failing = False
        await engine.close(ALICE, "s", purge=True)
        assert (await engine.create(BOB, NewSession(session_id="s")))["owner"] == "bob"


async def test_a_query_that_meets_the_idle_timeout_does_not_follow_the_id(tmp_path: Path) -> None:
    """It waits for the session to be dormant, and would bring back whatever has the id by then."""
    async with holding(tmp_path, session_timeout=0.02) as (engine, holds):
        dormant = holds.hold("append", nth=2)  # the first one is of the creation
        await engine.create(ALICE, NewSession(session_id="s"))
        await dormant.reached.wait()
        attempt = Attempt(lambda: CALLS["query"](engine, ALICE))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.run)
            await anyio.wait_all_tasks_blocked()
            look = holds.hold("get")
            dormant.release()
            await look.reached.wait()
            await engine.close(ALICE, "s", purge=True)
            await engine.create(BOB, NewSession(session_id="s"))
            look.release()
        attempt.assert_unknown()
        assert (await engine.session(BOB, "s"))["turns"] == 0


async def test_a_list_shows_nothing_of_the_next_session_of_the_id(tmp_path: Path) -> None:
    async with holding(tmp_path) as (engine, holds):
        await put(holds.store)
        hold = holds.hold("list", late=True)
        attempt = Attempt(lambda: engine.sessions(ALICE))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.run)
            await hold.reached.wait()
            await replace_session(engine)
            hold.release()
        assert isinstance(attempt.result, tuple)
        assert [(view["owner"], view["title"]) for view in attempt.result[0]] == [("alice", "alice's")]


async def read_on(reader: Reader) -> list[Event]:
    found: list[Event] = []
    while events := await reader.read():
        found += events
    return found


@pytest.mark.parametrize("turn_id", [None, "t"])
async def test_a_reader_reads_nothing_of_the_next_session_of_the_id(tmp_path: Path, turn_id: str | None) -> None:
    async with holding(tmp_path) as (engine, holds):
        await put(holds.store)
        reader = await engine.reader(ALICE, "s", turn_id=turn_id)
        await replace_session(engine)
        assert [each.type for each in await read_on(reader)] == ["gap"]  # it is told that what it missed is deleted


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize(("turn_id", "method"), [(None, "read"), ("t", "read"), ("t", "turn")])
async def test_a_read_under_way_brings_nothing_of_the_next_session_of_the_id(
    tmp_path: Path, turn_id: str | None, method: str, late: bool
) -> None:
    async with holding(tmp_path) as (engine, holds):
        await put(holds.store)
        reader = await engine.reader(ALICE, "s", turn_id=turn_id)
        if method == "turn":  # asked for once all that was to be read is deleted
            await engine.close(ALICE, "s")
            inner: Any = holds.store
            await inner.delete("s")
            await holds.store.create(alices(State.CLOSED))
        hold = holds.hold(method, late=late)
        attempt = Attempt(lambda: read_on(reader))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.run)
            await hold.reached.wait()
            await replace_session(engine)
            hold.release()
        assert isinstance(attempt.result, list)
        assert [each.type for each in attempt.result] == ["gap"]


class Notebook:
    """Writes down of whose session it was told what; the first call waits for ``gate``."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.told: list[tuple[str, str]] = []

    async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
        for each in events:
            about = json.loads(each.data)
            self.told.append((session["owner"], about["principal"] if each.type == "query" else session["owner"]))
        self.gate.reached.set()
        await self.gate.opened.wait()


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("method", ["get", "read"])
async def test_an_observer_is_told_nothing_of_one_session_as_anothers(tmp_path: Path, method: str, late: bool) -> None:
    notebook = Notebook()
    driver = ScriptedDriver([turn(), *bobs_script()._script])
    async with holding(tmp_path, driver=driver, observers={"notebook": notebook}) as (engine, holds):
        await engine.create(ALICE, NewSession(session_id="s"))
        await notebook.gate.reached.wait()
        await engine.query(ALICE, "s", NewTurn("alice's first", "t"))
        feed = engine._lives.feed(engine._lives.of("s"), alices())
        await read_on(await engine.reader(ALICE, "s", turn_id="t"))
        await engine.close(ALICE, "s")
        if method == "read":
            feed.forget_tail()
        hold = holds.hold(method, late=late)
        notebook.gate.open()  # now it is told of the turn, and has to ask how the session is
        await hold.reached.wait()
        await replace_session(engine)
        hold.release()
        while engine.occupancy().observers["notebook"]:
            await anyio.sleep(0.001)
    assert {owner for owner, _ in notebook.told} == {"alice", "bob"}
    assert all(owner == principal for owner, principal in notebook.told)


# A life by itself.


async def test_what_is_being_stored_as_the_purge_comes_does_not_meet_the_next_session() -> None:
    holds = Holds(MemoryStore())
    await holds.store.create(alices())
    life = Life("s", holds.store)
    hold = holds.hold("append")
    done: list[str] = []

    async def purge() -> None:
        await life.purge()
        done.append("purge")
        await holds.store.create(record("s", owner="bob"))

    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(life.append, 0, [event(1)], alices(title="taken"))
            await hold.reached.wait()
            tasks.start_soon(purge)
            await anyio.wait_all_tasks_blocked()
            assert not done
            hold.release()
    kept = await holds.store.get("s")
    assert kept is not None and (kept.owner, kept.title, kept.last_seq) == ("bob", None, 0)


async def test_what_waits_to_be_stored_as_the_purge_comes_is_not_stored() -> None:
    holds = Holds(MemoryStore())
    await holds.store.create(alices())
    feed = Feed(Life("s", holds.store), 0)
    hold = holds.hold("append", late=True)
    attempts = [Attempt(lambda: feed.append([], alices(title="taken"))) for _ in range(3)]
    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempts[0].run)
            await hold.reached.wait()
            for attempt in attempts[1:]:
                tasks.start_soon(attempt.run)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(feed.life.purge)
            await anyio.wait_all_tasks_blocked()
            hold.release()
    assert attempts[0].error is None
    for attempt in attempts[1:]:
        attempt.assert_unknown()


async def test_a_session_is_brought_back_with_what_was_changed_while_it_was_looked_up(tmp_path: Path) -> None:
    async with holding(tmp_path) as (engine, holds):
        await put(holds.store)
        look = holds.hold("get", nth=2, late=True)
        query = Attempt(lambda: CALLS["query"](engine, ALICE))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(query.run)
            await look.reached.wait()
            await engine.change(ALICE, "s", SessionChanges({"title": "new"}))
            look.release()
        assert query.error is None
        assert (await engine.session(ALICE, "s"))["title"] == "new"


# A caller that is bound.


async def test_a_bound_caller_uses_its_session_and_nothing_else(tmp_path: Path) -> None:
    async with holding(tmp_path) as (engine, holds):
        await put(holds.store)
        bound = {who: await engine.bind(who, "s") for who in (ALICE, ROOT)}
        for who, same in bound.items():
            assert same == who
            assert (await engine.session(same, "s"))["title"] == "alice's"
            assert await engine.bind(same, "s") == who
            with pytest.raises(NotAllowed):
                await engine.create(same, NewSession())
            with pytest.raises(NotAllowed):
                await engine.sessions(same)
        await replace_session(engine)
        before = await all_of_bobs(engine)
        for same in bound.values():
            for name, call in CALLS.items():
                attempt = Attempt(lambda call=call, same=same: call(engine, same))  # type: ignore[misc]
                await attempt.run()
                assert attempt.error is not None, name
                attempt.assert_unknown()
        assert await all_of_bobs(engine) == before
        with pytest.raises(NotFound):
            await engine.bind(ALICE, "s")


# An id that is taken.


class Talkative(MemoryStore):
    """Says more of a session that there is than it should, and does not find it before."""

    async def get(self, session_id: str) -> SessionRecord | None:
        return None

    async def create(self, record: SessionRecord) -> None:
        raise Conflict("bob's, and it is running", code="owned", owner="bob")


async def test_an_id_that_is_taken_is_all_that_is_told(tmp_path: Path) -> None:
    holds = Holds(MemoryStore())
    told: list[tuple[str, str, Mapping[str, Any]]] = []
    for store in (holds.store, Talkative()):
        async with scripted_engine(tmp_path, store=store, driver=ScriptedDriver()) as engine:
            attempts = [Attempt(partial(engine.create, ALICE, NewSession(session_id="s")))]
            if store is holds.store:
                for state in State:
                    await holds.store.create(record(f"s-{state}", owner="bob", driver="scripted", state=state))
                    attempts.append(Attempt(partial(engine.create, ALICE, NewSession(session_id=f"s-{state}"))))
                hold = holds.hold("create")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(engine.create, BOB, NewSession(session_id="s"))
                    await hold.reached.wait()
                    await attempts[0].run()  # as it is being made
                    hold.release()
            for attempt in attempts:
                await attempt.run()
                assert isinstance(attempt.error, Conflict)
                detail = attempt.error.detail.replace("s-", "s")
                for state in State:
                    detail = detail.replace(f"s{state}", "s")
                told.append((attempt.error.code, detail, attempt.error.extra))
    assert told == [("session_exists", "session 's' exists already", {})] * (len(State) + 2)


# What the audit has of it.


class Book:
    """An audit in memory."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str, str | bool | None]] = []

    def note(
        self,
        action: str,
        outcome: str,
        principal: Principal | None = None,
        source: Source | None = None,
        **about: str | bool | None,
    ) -> None:
        self.lines.append((action, outcome, principal.name if principal else "", about.get("session_id")))


@asynccontextmanager
async def audited(folder: Path) -> AsyncIterator[tuple[Engine, Holds, Book]]:
    holds, book, driver = Holds(MemoryStore()), Book(), bobs_script()
    engine = Engine(
        audit=book,
        store=holds.store,
        drivers={driver.name: driver},
        default_driver=driver.name,
        default_model=None,
        policy=generous_policy(folder),
    )
    with anyio.fail_after(HANG_SECONDS):
        async with background() as tasks:
            await tasks.start(engine.run)
            yield engine, holds, book


CHANGES = {
    "change": "session.change",
    "close": "session.close",
    "purge": "session.purge",
    "query": "turn.query",
    "withdraw": "turn.withdraw",
    "interrupt": "turn.interrupt",
    "answer": "permission.allow",
}


@pytest.mark.parametrize("name", CHANGES)
async def test_the_audit_has_what_came_too_late_and_accuses_nobody(tmp_path: Path, name: str) -> None:
    async with audited(tmp_path) as (engine, holds, book):
        await put(holds.store)
        bound = await engine.bind(ROOT, "s")
        nth, method = {"change": (2, "get"), "query": (2, "get"), "withdraw": (1, "turn")}.get(name, (1, "get"))
        hold = holds.hold(method, nth=nth, late=True)
        attempt = Attempt(lambda: CALLS[name](engine, ALICE))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.run)
            await hold.reached.wait()
            await replace_session(engine)
            del book.lines[:]
            hold.release()
        attempt.assert_unknown()
        # Where the purge came before it was known that the session was hers, she has tried nothing yet.
        assert book.lines == (
            [] if method == "get" and nth == 1 else [(CHANGES[name], "session_not_found", "alice", "s")]
        )
        del book.lines[:]
        with pytest.raises(SessionGone):
            await CALLS[name](engine, bound)
        assert book.lines == [(CHANGES[name], "session_not_found", "root", "s")]
        del book.lines[:]
        with pytest.raises(NotFound):
            await CALLS[name](engine, ALICE)  # asked for now, it is somebody else's
        assert book.lines == [("session.access", "session_not_found", "alice", "s")]
        del book.lines[:]
        with pytest.raises(NotFound):
            await engine.session(ALICE, "never")
        await engine.change(BOB, "s", SessionChanges({"title": "new"}))
        assert book.lines == [("session.change", "ok", "bob", "s")]


async def test_who_asks_for_its_own_session_as_it_is_made_is_no_stranger(tmp_path: Path) -> None:
    async with audited(tmp_path) as (engine, holds, book):
        hold = holds.hold("append")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.create, ALICE, NewSession(session_id="s"))
            await hold.reached.wait()
            with pytest.raises(NotFound):
                await engine.session(ALICE, "s")
            hold.release()
        assert book.lines == [("session.create", "ok", "alice", "s")]

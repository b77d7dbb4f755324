"""A reader sees each event once, in order, and none that the store does not have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from portico.core.agent import AgentOptions
from portico.core.errors import StoreFailed
from portico.core.events import Delta, Draft, Event, Notice
from portico.core.feed import TAIL_BYTES, Feed
from portico.core.life import Life
from portico.core.principal import Principal
from portico.core.reader import Reader
from portico.core.requests import NewSession, NewTurn
from portico.core.state import State
from portico.core.store import SessionRecord
from portico.plugins.memory_store.store import MemoryStore
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.engine import scripted_engine
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio


def record(session_id: str = "s") -> SessionRecord:
    return SessionRecord(
        session_id=session_id,
        agent_id="a",
        owner="o",
        driver="d",
        state=State.IDLE,
        cwd="/",
        own_workspace=True,
        options=AgentOptions(),
        created_at="2026-01-01T00:00:00.000Z",
        last_active_at="2026-01-01T00:00:00.000Z",
    )


async def feed_on(store: MemoryStore) -> Feed:
    await store.create(record())
    return Feed(Life("s", store), 0)


def delta(text: str, turn_id: str | None = None) -> Draft:
    return Draft(Delta(type="delta", content=text), turn_id)


class SlowStore(MemoryStore):
    """Takes its time to append, and may fail; what it says it has stored, it has."""

    def __init__(self) -> None:
        super().__init__()
        self.let_through = anyio.Event()
        self.commits: list[int] = []
        self.fail = False

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        await self.let_through.wait()
        if self.fail:
            raise StoreFailed("the disk is full")
        self.commits.append(len(events))
        await super().append(session_id, expected_seq, events, record)


async def test_events_are_numbered_without_holes_and_carry_what_they_have_in_common() -> None:
    feed = await feed_on(MemoryStore())
    await feed.append([delta("a", "t"), delta("b", "t")])
    (third,) = await feed.append([delta("c")])
    events = await Reader(feed).read()
    assert [event.seq for event in events] == [1, 2, 3]
    first = json.loads(events[0].data)
    assert first.pop("time").endswith("Z")
    assert first == {"type": "delta", "session_id": "s", "seq": 1, "turn_id": "t", "content": "a"}
    assert "turn_id" not in json.loads(third.data)


async def test_nothing_is_visible_before_the_store_has_it() -> None:
    store = SlowStore()
    feed = await feed_on(store)
    seen: list[int] = []

    async def read() -> None:
        seen.extend(event.seq for event in await Reader(feed).read())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(feed.append, [delta("a")])
        await anyio.wait_all_tasks_blocked()
        assert seen == []
        store.let_through.set()
    assert seen == [1]


async def test_appends_that_come_while_one_is_stored_are_stored_together() -> None:
    store = SlowStore()
    feed = await feed_on(store)
    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(feed.append, [delta(str(n))])
        await anyio.wait_all_tasks_blocked()
        store.let_through.set()
    assert store.commits == [1, 9]
    assert [json.loads(event.data)["content"] for event in await Reader(feed).read()] == list("0123456789")


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_cancelled_append_is_whole_or_absent_and_harms_no_other(victim: int) -> None:
    store = SlowStore()
    feed = await feed_on(store)
    scopes = [anyio.CancelScope(), anyio.CancelScope()]

    async def append(scope: anyio.CancelScope) -> None:
        with scope:
            await feed.append([delta("a"), delta("b")])

    async with anyio.create_task_group() as tasks:
        for scope in scopes:
            tasks.start_soon(append, scope)
        await anyio.wait_all_tasks_blocked()  # the first is being stored, the second waits for its end
        scopes[victim].cancel()
        await anyio.wait_all_tasks_blocked()
        store.let_through.set()
    await feed.append([delta("c")])
    seqs = [event.seq for event in await Reader(feed).read()]
    assert seqs == list(range(1, feed.last_seq + 1))
    assert len(seqs) == (5 if victim == 0 else 3)


async def test_a_store_that_fails_shows_nothing_and_tells_everybody_who_appended() -> None:
    store = SlowStore()
    feed = await feed_on(store)
    store.fail = True
    store.let_through.set()
    with pytest.raises(StoreFailed):
        await feed.append([delta("a")])
    assert feed.last_seq == 0
    store.fail = False
    (event,) = await feed.append([delta("b")])
    assert event.seq == 1


async def test_what_is_not_json_fails_alone() -> None:
    feed = await feed_on(MemoryStore())
    with pytest.raises(ValueError, match="JSON"):
        await feed.append([Draft(Notice(type="notice", name="n", detail=float("nan")))])
    (event,) = await feed.append([delta("fine")])
    assert event.seq == 1


async def test_half_a_surrogate_pair_survives() -> None:
    feed = await feed_on(MemoryStore())
    await feed.append([delta("\ud83d"), delta("é\u2028")])
    events = await Reader(feed).read()
    assert [json.loads(event.data)["content"] for event in events] == ["\ud83d", "é\u2028"]
    assert len(events[1].data.decode().splitlines()) == 1


@pytest.mark.parametrize("size", [10, TAIL_BYTES // 50, TAIL_BYTES * 2])
async def test_resuming_at_every_event_gives_exactly_the_rest(size: int) -> None:
    feed = await feed_on(MemoryStore())
    for n in range(60):
        await feed.append([delta(f"{n}" + "x" * size)])
    for after in range(60):
        reader, seqs = Reader(feed, after=after), list[int]()
        while not seqs or seqs[-1] < 60:
            seqs += [event.seq for event in await reader.read()]
        assert seqs == list(range(after + 1, 61))


async def test_a_batch_is_bounded_but_never_empty() -> None:
    feed = await feed_on(MemoryStore())
    for _ in range(10):
        await feed.append([delta("x" * 1000)])
    reader = Reader(feed)
    assert len(await reader.read(max_bytes=3000)) == 2
    assert len(await reader.read(max_bytes=1)) == 1


async def test_a_reader_of_a_turn_gets_that_turn_and_ends_with_it() -> None:
    feed = await feed_on(MemoryStore())
    end = Draft({"type": "complete", "stop_reason": "end_turn", "usage": {}, "cost_usd": 0.0}, "one")
    await feed.append([delta("a", "one"), delta("b", "two"), delta("c"), end, delta("d", "two")])
    reader = Reader(feed, turn_id="one")
    assert [event.seq for event in await reader.read()] == [1, 4]
    assert await reader.read() == ()


async def test_readers_of_an_ended_feed_get_the_rest_and_go() -> None:
    feed = await feed_on(MemoryStore())
    await feed.append([delta("a")])
    reader = Reader(feed)
    feed.end()
    assert len(await reader.read()) == 1
    assert await reader.read() == ()


async def test_a_reader_of_a_turn_that_is_deleted_meanwhile_is_told_and_ends(tmp_path: Path) -> None:
    ada, seconds = Principal("ada"), [0.0]
    store = SqliteStore(tmp_path / "portico.db", retention_days=1, now=lambda: seconds[0])
    async with scripted_engine(tmp_path, store=store) as engine:
        await engine.create(ada, NewSession(session_id="s"))
        for name, query in (("a", "hello"), ("b", json.dumps({"deltas": 2, "size": TAIL_BYTES}))):
            await engine.query(ada, "s", NewTurn(query, name))
            reader = await engine.reader(ada, "s", turn_id=name)
            while await reader.read():
                pass
            await store.tidy()
        slow = await engine.reader(ada, "s", turn_id="a")
        seconds[0] = 3 * 86_400.0
        await store.tidy()
        with anyio.fail_after(HANG_SECONDS):
            for reader in (slow, await engine.reader(ada, "s", turn_id="a")):
                assert [event.type for event in await reader.read()] == ["gap"]
                assert not await reader.read()
        assert await engine.resume(ada, "s", 2, turn_id="a") is None


async def test_who_is_stopped_still_gets_what_is_at_hand() -> None:
    feed = await feed_on(MemoryStore())
    reader = Reader(feed)
    await feed.append([Draft(Notice(type="notice", name="n", detail=1))])
    reader.stop()
    assert [event.seq for event in await reader.read()] == [1]
    await feed.append([Draft(Notice(type="notice", name="n", detail=2))])
    assert await reader.read() == ()

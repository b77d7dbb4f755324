"""The store as its users see it; what every store does is in `portico.testing.store`."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from portico.core.errors import NotFound, SequenceConflict
from portico.core.events import Event
from portico.plugins.manager import load_plugins
from portico.plugins.sqlite_store import packing, removal, writer
from portico.plugins.sqlite_store.blocks import pack
from portico.plugins.sqlite_store.store import SqliteStore
from portico.plugins.sqlite_store.writer import transaction
from portico.testing.store import event, read_all, record, turn
from tests.support.limits import HANG_SECONDS
from tests.support.loop import longest_step
from tests.support.threads import no_threads

pytestmark = pytest.mark.anyio

LOOP_SECONDS = 0.01
"""Reading or writing 32 MiB takes at least twice as much."""


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(folder / "portico.db", **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def count(folder: Path, table: str) -> int:
    with sqlite3.connect(folder / "portico.db") as connection:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
    connection.close()
    return found


async def test_the_setting_makes_it(tmp_path: Path) -> None:
    settings = SimpleNamespace(store_sync="full", retention_days=1.0, retention_mb=None)
    store = load_plugins().registry.store("sqlite")(SimpleNamespace(settings=settings, data_dir=tmp_path))  # type: ignore[arg-type]
    await store.open()
    await store.close()
    assert (tmp_path / "portico.db").exists()


async def test_only_its_owner_can_read_the_files(tmp_path: Path) -> None:
    (tmp_path / "portico.db").touch(0o644)
    async with opened(tmp_path) as store:
        await store.create(record())
        assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
            "portico.db": 0o600,
            "portico.db-wal": 0o600,
            "portico.db-shm": 0o600,
        }
    assert [path.name for path in tmp_path.iterdir()] == ["portico.db"]


async def test_what_arrives_together_is_one_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for n in range(8):
            await store.create(record(f"s{n}"))
        commits: list[str] = []
        store._writing._connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(store.append, f"s{n}", 0, [event(1)])
        assert len(commits) == 1
        assert [await read_all(store, f"s{n}") for n in range(8)] == [[event(1)]] * 8


async def test_a_writer_that_is_torn_away_takes_nobody_along(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for name in ("a", "b"):
            await store.create(record(name))
        first = asyncio.ensure_future(store.append("a", 0, [event(1)]))
        second = asyncio.ensure_future(store.append("b", 0, [event(1)]))
        asyncio.get_running_loop().call_soon(first.cancel)  # asyncio's own, which no shield keeps off
        with anyio.fail_after(HANG_SECONDS):
            await asyncio.wait([first, second])
        assert first.cancelled()
        stored = await read_all(store, "b")
        assert bool(stored) == (second.exception() is None)
        await store.append("b", len(stored), [event(len(stored) + 1)])


async def test_the_write_ahead_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        for n in range(60):
            await store.append("s", n, [event(n + 1, data=bytes([n]) * 500_000)])
            assert (tmp_path / "portico.db-wal").stat().st_size < 10_000_000
        assert len(await read_all(store)) == 60


async def test_what_was_written_is_so_also_where_the_log_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LOG_BYTES", 0)
    async with opened(tmp_path) as store:
        await store.create(record())
        async with anyio.create_task_group() as tasks, no_threads(tasks):
            await store.append("s", 0, [event(1)])
        await store.append("s", 1, [event(2)])
        assert await read_all(store) == [event(1), event(2)]


async def test_housekeeping_does_not_make_it_grow_either(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        events = [event(n, data=bytes([n]) * 1_000_000) for n in range(1, 40)]
        await store.append("s", 0, [*events, event(40, "complete")])
        await store.tidy()
        await store.delete("s")
        await store.tidy()
        await store.create(record())
        for n in range(2):  # what the great transaction took is given back when the log begins anew
            await store.append("s", n, [event(n + 1)])
        assert (tmp_path / "portico.db-wal").stat().st_size < 20_000_000


async def test_a_long_read_lets_others_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        for n in range(0, 20_000, 1000):
            await store.append("s", n, turn(n + 1, 1000, f"t{n}", size=200))
        steps = 0

        async def count_steps() -> None:
            nonlocal steps
            while True:
                steps += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_steps)
            assert len(await store.read("s", 0, 20_000, max_bytes=10**9)) == 20_000
            tasks.cancel_scope.cancel()
        assert steps > 10


@pytest.mark.parametrize("packed", [False, True], ids=["row", "block"])
async def test_a_large_event_is_written_and_read_beside_the_loop(tmp_path: Path, packed: bool) -> None:
    large = event(2, data=random.Random(1).randbytes(32 * 1024 * 1024))
    async with opened(tmp_path) as store:
        await store.create(record())
        async with longest_step() as writing:
            await store.append("s", 0, [event(1), large, event(3, "complete")])
        assert writing[0] < LOOP_SECONDS
        if packed:
            await store.tidy()
        assert count(tmp_path, "large_events") == (0 if packed else 1)
        assert count(tmp_path, "blocks") == (3 if packed else 0)
        async with longest_step() as reading:
            events = await store.read("s", 0, 100, max_bytes=2**30)
        assert events == [event(1), large, event(3, "complete")]
        assert reading[0] < LOOP_SECONDS
        async with longest_step() as writing:
            await store.append("s", 3, [event(4)])
        assert writing[0] < LOOP_SECONDS
        await store.delete("s")
        assert count(tmp_path, "large_events") == 0


async def test_what_is_small_costs_no_hop_to_a_thread(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        threads: set[int] = set()
        for lane in (store._writing, store._reading, store._aside):
            lane._connection.set_trace_callback(lambda sql: threads.add(threading.get_ident()))
        await store.append("s", 0, [event(1, data=b"x" * 100_000)])
        assert await store.read("s", 0, 10) == [event(1, data=b"x" * 100_000)]
        assert threads == {threading.get_ident()}


async def test_a_large_event_is_stored_and_read_also_without_threads(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        async with anyio.create_task_group() as tasks, no_threads(tasks):
            await store.append("s", 0, [event(1, data=b"x" * 1_000_000)])
            assert await store.read("s", 0, 10) == [event(1, data=b"x" * 1_000_000)]


# Packing.


async def test_packed_events_are_the_same_at_any_place(tmp_path: Path) -> None:
    events: list[Event] = []
    for n in range(6):
        events += turn(len(events) + 1, 700, f"turn-{n}", size=100)
        events.append(event(len(events) + 1, "session", None))
    async with opened(tmp_path) as store:
        await store.create(record())
        await store.append("s", 0, events)
        before = (tmp_path / "portico.db-wal").stat().st_size
        await store.tidy()
        for after in (0, 1, 699, 700, 701, 2600, 2620, len(events) - 1):
            assert await read_all(store, after=after, limit=999) == events[after:]
            assert await store.event("s", after + 1) == events[after]
    assert count(tmp_path, "events") == 1  # what follows the last turn waits for the next one
    assert count(tmp_path, "blocks") > 1
    assert (tmp_path / "portico.db").stat().st_size < before
    async with opened(tmp_path) as store:
        assert await read_all(store) == events


async def test_what_still_runs_is_not_packed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        # The second turn waits in the queue while the first one runs.
        await store.append("s", 0, [*turn(1, 5, "a")[:4], event(5, "query", "b"), event(6, "complete", "a")])
        await store.append("s", 6, [event(7, turn_id="b")])
        await store.tidy()
        assert count(tmp_path, "events") == 7
        await store.append("s", 7, [event(8, "complete", "b")])
        await store.tidy()
        assert count(tmp_path, "events") == 0
        assert len(await read_all(store)) == 8
    assert count(tmp_path, "packable") == 0


async def test_a_turn_that_ends_while_packing_goes_on_is_packed_next(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        await store.append("s", 0, [*turn(1, 5, "a"), *turn(6, 5, "b")])
        packing.mark_packed(store._writing._connection, 1, 5)  # as if the packing had begun before turn b ended
        await store.tidy()
    assert count(tmp_path, "events") == 0


async def test_a_read_misses_nothing_that_is_packed_meanwhile(tmp_path: Path) -> None:
    events = turn(1, 5, "t")
    async with opened(tmp_path) as store:
        await store.create(record())
        await store.append("s", 0, events)
        reading, writing = store._reading._connection, store._writing._connection

        def pack_now(statement: str) -> None:  # when there was no block, and the rows come next
            if "FROM events" in statement:
                reading.set_trace_callback(None)
                with transaction(writing):
                    packing.replace_rows(writing, 1, events, pack(events), 0)

        reading.set_trace_callback(pack_now)
        assert await store.read("s", 0, 10) == events
    assert count(tmp_path, "blocks") == 1


async def test_readers_are_exact_while_packing_goes_on(tmp_path: Path) -> None:
    events: list[Event] = []
    for n in range(20):
        events += turn(len(events) + 1, 400, f"t{n}", size=60)
    choose = random.Random(4)
    async with opened(tmp_path) as store:
        await store.create(record())
        await store.create(record("live"))
        await store.append("s", 0, events)
        packed = anyio.Event()
        rounds = 0

        async def read() -> None:
            nonlocal rounds
            while not packed.is_set() or not rounds:
                after = choose.randrange(len(events))
                limit = choose.choice([1, 10, 500, 2000])
                found = list(await store.read("s", after, limit))
                assert found == events[after : after + len(found)]
                assert found
                rounds += 1
                await anyio.lowlevel.checkpoint()

        async def append() -> None:
            n = 0
            while not packed.is_set():
                n += 1
                await store.append("live", n - 1, [event(n)])

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read)
            tasks.start_soon(append)
            await store.tidy()
            packed.set()
        assert await read_all(store) == events
    assert count(tmp_path, "blocks") >= 2


async def test_replaying_a_long_session_is_quick(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        for n in range(0, 20_000, 500):
            await store.append("s", n, turn(n + 1, 500, f"t{n}", size=200))
        await store.tidy()
        began = time.process_time()
        assert len(await read_all(store)) == 20_000
        assert time.process_time() - began < 0.4  # 25 to 40 ms; the rest is for slow machines


# Retention.


class Clock:
    def __init__(self) -> None:
        self.days = 20_000.0

    def __call__(self) -> float:
        return self.days * 86_400


async def test_turns_that_ended_long_ago_are_deleted(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, retention_days=7, now=clock) as store:
        await store.create(record())
        await store.append("s", 0, [*turn(1, 10, "a"), event(11, "session", None)])
        await store.append("s", 11, [event(12, "query", "running")])
        clock.days += 6
        await store.tidy()
        assert [found.seq for found in await read_all(store)] == list(range(1, 13))
        await store.append("s", 12, [*turn(13, 10, "b"), event(23, turn_id="running")])
        clock.days += 2
        await store.tidy()
        # What the running turn began with stays, and so all behind it.
        assert [found.seq for found in await read_all(store)] == list(range(11, 24))
        assert [found.seq for found in await store.read("s", 3, 2)] == [11, 12]
        assert await store.event("s", 5) is None
        await store.append("s", 23, [event(24, "complete", "running")])
        await store.append("s", 24, turn(25, 5, "c"))
        clock.days += 100
        await store.tidy()
        # Of every session its last events stay, for readers to go on from; and no turn runs twice.
        assert [found.seq for found in await read_all(store)][-1] == 29
        span = await store.turn("s", "a")
        assert span is not None
        assert (span.first_seq, span.last_seq) == (1, 10)
        found = await store.get("s")
        assert found is not None
        assert found.last_seq == 29


async def test_a_read_has_no_hole_where_something_is_deleted_meanwhile(tmp_path: Path) -> None:
    events: list[Event] = []
    async with opened(tmp_path) as store:
        await store.create(record())
        for n in range(8):
            events += turn(len(events) + 1, 200, f"t{n}", size=500)
        await store.append("s", 0, events)
        await store.tidy()
        reading, writing = store._reading._connection, store._writing._connection
        steps = 0

        def delete_now(statement: str) -> None:  # when some of it is read already
            nonlocal steps
            steps += statement == "BEGIN"
            if steps == 2:
                reading.set_trace_callback(None)
                with transaction(writing):
                    removal.remove_blocks(writing, list(removal.oldest_blocks(writing, None))[:-1])

        reading.set_trace_callback(delete_now)
        found = [each.seq for each in await store.read("s", 0, len(events))]
        assert found == list(range(1, len(found) + 1))
        left = [each.seq for each in await store.read("s", found[-1], len(events))]
        assert left == list(range(left[0], len(events) + 1))
        assert left[0] > found[-1] + 1
    assert count(tmp_path, "blocks") == 1


async def test_a_read_under_way_brings_nothing_of_the_next_session_of_the_id(tmp_path: Path) -> None:
    events: list[Event] = []
    async with opened(tmp_path) as store:
        await store.create(record())
        for n in range(8):
            events += turn(len(events) + 1, 200, f"t{n}", size=500)
        await store.append("s", 0, events)
        await store.tidy()
        reading, writing = store._reading._connection, store._writing._connection
        theirs = [event(n, data=b"theirs") for n in range(1, len(events) + 1)]
        steps = 0

        def replace_now(statement: str) -> None:  # when some of it is read already
            nonlocal steps
            steps += statement == "BEGIN"
            if steps == 2:
                reading.set_trace_callback(None)
                with transaction(writing):
                    removal.forget_session(writing, "s")
                    removal.remove_some(writing)
                    writing.execute(
                        "INSERT INTO sessions (session_id, owner, state, created_at, last_seq, record)"
                        " VALUES ('s', 'bob', 'idle', '', ?, '{}')",
                        (len(theirs),),
                    )
                    (number,) = writing.execute("SELECT id FROM sessions").fetchone()
                    rows = [(number, each.seq, each.type, each.turn_id, each.data) for each in theirs]
                    writing.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)

        reading.set_trace_callback(replace_now)
        found = await store.read("s", 0, len(events))
        assert steps == 2 and found
        assert found == events[: len(found)]
        assert await store.read("s", 0, 5) == theirs[:5]


async def test_time_that_jumps_back_never_makes_a_hole(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, retention_days=7, now=clock) as store:
        await store.create(record())
        for n, days in enumerate((0, -30, 5, -30, 10)):
            clock.days += days
            await store.append("s", n * 5, turn(n * 5 + 1, 5, f"t{n}"))
            await store.tidy()
            seqs = [found.seq for found in await read_all(store)]
            assert seqs == list(range(seqs[0], n * 5 + 6))


async def test_the_oldest_goes_when_there_is_too_much(tmp_path: Path) -> None:
    clock, choose = Clock(), random.Random(1)
    async with opened(tmp_path, retention_mb=1, now=clock) as store:
        for name in ("a", "b"):
            await store.create(record(name))
            await store.append(name, 0, [event(1, "session", None)])
        for n in range(10):
            for name in ("a", "b"):
                events = turn(n * 5 + 2, 5, f"t{n}")
                events[2] = event(events[2].seq, turn_id=f"t{n}", data=choose.randbytes(100_000))
                await store.append(name, n * 5 + 1, events)
                clock.days += 1
                await store.tidy()
        a, b = await read_all(store, "a"), await read_all(store, "b")
    kept = sum(len(found.data) for found in [*a, *b])
    assert 800_000 < kept <= 1_000_000
    for events in (a, b):
        assert [found.seq for found in events] == list(range(events[0].seq, 52))
        assert events[0].seq > 1


async def test_space_is_given_back(tmp_path: Path) -> None:
    choose = random.Random(1)
    async with opened(tmp_path) as store:
        await store.create(record("a"))
        await store.create(record("b"))
        for n in range(20):
            for name in ("a", "b"):
                await store.append(name, n, [event(n + 1, data=choose.randbytes(1_000_000))])
        await store.delete("a")
        await store.tidy()
        assert len(await read_all(store, "b")) == 20
    assert (tmp_path / "portico.db").stat().st_size < 27_000_000
    assert count(tmp_path, "deleted") == 0


async def test_what_a_cut_delete_has_left_is_removed_later(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(record())
        await store.append("s", 0, turn(1, 5000, "t"))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.delete("s")
        assert await store.get("s") is None or (await store.get("s")) == record(last_seq=5000)
        await store.delete("s")
        await store.create(record())
        assert await read_all(store) == []
    for table in ("events", "blocks", "turns", "packable", "deleted"):
        assert count(tmp_path, table) == 0


# Two at once, and a slow disk.


async def test_two_stores_on_one_file_keep_out_of_each_others_way(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as two:
        await one.create(record())
        done: list[bytes] = []

        async def append(store: SqliteStore, name: bytes) -> None:
            for _ in range(50):
                found = await store.get("s")
                assert found is not None
                try:
                    await store.append("s", found.last_seq, [event(found.last_seq + 1, data=name)])
                except SequenceConflict:
                    continue
                done.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append, one, b"one")
            tasks.start_soon(append, two, b"two")
        found = await read_all(one)
        assert found == await read_all(two)
        assert [event.seq for event in found] == list(range(1, len(done) + 1))
        assert sorted(event.data for event in found) == sorted(done)
        await one.delete("s")
        with pytest.raises(NotFound):
            await two.append("s", len(found), [event(len(found) + 1)])


async def test_a_slow_disk_does_not_hold_the_loop(tmp_path: Path) -> None:
    # A trigger that takes its time stands for the disk.
    async with opened(tmp_path) as store:
        await store.create(record())
        connection = store._writing._connection
        step, patience = threading.Event(), 0.0
        stepped: list[bool] = []

        def slow() -> None:
            time.sleep(0.05)
            step.clear()
            stepped.append(step.wait(patience))  # whether the loop takes a step meanwhile

        async def watch() -> None:
            while True:
                step.set()
                await anyio.sleep(0.001)

        connection.create_function("slow", 0, slow)
        connection.execute("CREATE TEMP TRIGGER slow AFTER INSERT ON events BEGIN SELECT slow(); END")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            for n in range(3):
                await store.append("s", n, [event(n + 1)])
            stepped.clear()
            patience = HANG_SECONDS
            for n in range(3, 13):
                await store.append("s", n, [event(n + 1)])
            tasks.cancel_scope.cancel()
        assert stepped == [True] * 10

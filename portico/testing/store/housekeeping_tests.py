"""Tests of tidying, and of opening a store again."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from portico.core.errors import SequenceConflict
from portico.core.events import Event
from portico.core.store import EventStore
from portico.testing.store.samples import all_seen, compare, event, fill, read_all, record, record_of, turn
from portico.testing.store.store_harness import StoreHarness


class HousekeepingTests(StoreHarness):
    """Tests of tidying, and of opening a store again."""

    async def test_tidy_changes_nothing_that_readers_see(self, store: EventStore) -> None:
        """Tidying, once and again, changes nothing that anybody can read, and appends go on behind it."""
        names = await fill(store)
        before = await all_seen(store, names)
        await store.tidy()
        compare(before, await all_seen(store, names), "tidy()")
        await store.tidy()
        compare(before, await all_seen(store, names), "the second tidy()")
        found = await record_of(store, names[0])
        more = turn(found.last_seq + 1, 5, "after")
        await store.append(names[0], found.last_seq, more)
        await store.tidy()
        assert await read_all(store, names[0], found.last_seq) == more, "what was appended after a tidy() is not there"

    async def test_who_reads_and_appends_is_not_disturbed_by_tidy(self, store: EventStore) -> None:
        """While tidy runs, reads are exact and appends are taken."""
        await store.create(record())
        await store.create(record("live"))
        events: list[Event] = []
        for n in range(20):
            events += turn(len(events) + 1, 100, f"t{n}", size=60)
        await store.append("s", 0, events)
        tidied = anyio.Event()

        async def read() -> None:
            n = 0
            while not tidied.is_set() or n < 10:
                after = n * 377 % len(events)
                found = list(await store.read("s", after, 250))
                seqs = [event.seq for event in found]
                assert found, f"read(after={after}) brought nothing while tidy() ran"
                assert found == events[after : after + len(found)], f"read(after={after}) brought {seqs} in a tidy()"
                n += 1
                await anyio.lowlevel.checkpoint()

        async def append() -> None:
            n = 0
            while not tidied.is_set() or n < 10:
                await store.append("live", n, [event(n + 1, "complete" if n % 5 == 4 else "delta", f"t{n // 5}")])
                n += 1
                await anyio.lowlevel.checkpoint()
            found = await read_all(store, "live")
            assert [event.seq for event in found] == list(range(1, n + 1)), "appends beside a tidy() are missing"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(append)
            await store.tidy()
            tidied.set()

    async def test_all_is_there_when_it_is_opened_again(self, tmp_path: Path) -> None:
        """Whatever an append has returned for is there when the store is opened again, and the fence is intact."""
        self._skip_unless_durable()
        async with self.opened(tmp_path) as store:
            names = await fill(store)
            before = await all_seen(store, names)
        async with self.opened(tmp_path) as store:
            compare(before, await all_seen(store, names), "opening it again")
            await store.tidy()
            end = (await record_of(store, names[0])).last_seq
            with pytest.raises(SequenceConflict):
                await store.append(names[0], end - 1, [event(end)])
            await store.append(names[0], end, [event(end + 1)])
            before = await all_seen(store, names)
        async with self.opened(tmp_path) as store:
            compare(before, await all_seen(store, names), "opening it a third time")

    async def test_what_was_deleted_does_not_come_back(self, tmp_path: Path) -> None:
        """A deleted session is still gone when the store is opened again."""
        self._skip_unless_durable()
        async with self.opened(tmp_path) as store:
            await store.create(record())
            await store.append("s", 0, [*turn(1, 5, "t"), event(6, "query", "u")])
            await store.delete("s")
        async with self.opened(tmp_path) as store:
            assert await store.get("s") is None, "the deleted session has come back"
            assert not await store.unfinished(), "a turn of the deleted session has come back"
            await store.create(record())
            assert not await read_all(store), "events of the deleted session have come back"
            assert await store.turn("s", "t") is None, "a turn of the deleted session has come back"

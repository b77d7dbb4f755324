"""Tests of appends that are refused, cancelled, or made at the same time."""

from __future__ import annotations

import time
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from portico.core.errors import NotFound, PorticoError, SequenceConflict
from portico.core.store import EventStore
from portico.testing.store.samples import all_seen, compare, event, read_all, record, record_of, turn
from portico.testing.store.store_harness import StoreHarness


class FencingTests(StoreHarness):
    """Tests of appends that are refused, cancelled, or made at the same time."""

    async def test_an_append_behind_another_end_is_refused(self, store: EventStore) -> None:
        """An append that expects another end of the history raises `SequenceConflict`, also without events."""
        await store.create(record())
        await store.append("s", 0, [event(1), event(2)])
        for expected in (0, 1, 3, 1000):
            for events in ([event(expected + 1)], []):
                with pytest.raises(SequenceConflict):
                    await store.append("s", expected, events, record())
        await store.append("s", 2, [event(3)])

    async def test_what_was_refused_left_nothing(self, store: EventStore) -> None:
        """A refused append keeps neither its events nor its record nor its turns."""
        await store.create(record())
        await store.append("s", 0, turn(1, 3, "t"), record(title="old"))
        before = await all_seen(store, ["s"])
        for expected in (0, 2, 4):
            try:
                await store.append("s", expected, [event(expected + 1, "query", "u")], record(title="new"))
            except SequenceConflict:
                compare(before, await all_seen(store, ["s"]), "a refused append")
        assert await store.turn("s", "u") is None, "a refused append has left its turn"

    async def test_an_append_to_no_session_is_refused(self, store: EventStore) -> None:
        """An append to a session that is not there gets `NotFound` and makes none."""
        for events, kept in (([event(1)], record()), ([event(1)], None), ([], record())):
            with pytest.raises(NotFound):
                await store.append("s", 0, events, kept)
        assert await store.get("s") is None, "the append has made a session"
        assert not await store.read("s", 0, 10), "the append has left events"

    async def test_of_many_who_append_at_once_one_wins(self, store: EventStore) -> None:
        """Of many appends behind the same end at once, one is kept and all others are refused."""
        await store.create(record())
        won: list[int] = []

        async def append(n: int) -> None:
            try:
                await store.append("s", 0, [event(1, data=b"%d" % n), event(2, data=b"%d" % n)], record(title=f"{n}"))
            except SequenceConflict:
                return
            won.append(n)

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(append, n)
        assert len(won) == 1, f"{len(won)} of 20 appends behind the same end were taken"
        kept = [event.data for event in await read_all(store)]
        assert kept == [b"%d" % won[0]] * 2, f"the append {won[0]} was taken, kept was {kept}"
        assert (await record_of(store)).title == f"{won[0]}", "the record of another append was kept"

    async def test_sessions_that_append_at_once_do_not_mix(self, store: EventStore) -> None:
        """Sessions that append at the same time get their own events, whatever becomes of the others' appends."""

        async def live(name: str) -> None:
            await store.create(record(name))
            for n in range(0, 40, 2):
                events = [event(n + m, data=name.encode()) for m in (1, 2)]
                try:
                    await store.append(name, n, events)
                except PorticoError as error:
                    raise AssertionError(f"an append that was in order raised {error!r} beside others") from error
                with suppress(SequenceConflict):  # one that is refused harms nobody who commits beside it
                    await store.append(name, n, events)

        names = [f"s{n}" for n in range(6)]
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(live, name)
        for name in names:
            found = await read_all(store, name)
            assert {event.data for event in found} <= {name.encode()}, f"{name} has events of another session"
            assert [event.seq for event in found] == list(range(1, 41)), f"events of {name} are missing"

    async def test_a_cancelled_append_is_all_or_nothing(self, store: EventStore) -> None:
        """A cancelled append has kept all of its events and its record, or nothing, and the next one goes on."""
        await store.create(record())
        began = time.monotonic()
        await store.append("s", 0, [event(1), event(2)], record(title="0"))
        took = time.monotonic() - began
        end, title = 2, "0"
        for n in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.append, "s", end, [event(end + 1), event(end + 2)], record(title=f"{n}"))
                for _ in range(n % 10):
                    await anyio.lowlevel.checkpoint()
                if n >= 10:  # some more instants, for a store that is slow
                    await anyio.sleep(took * (n - 9) / 10)
                tasks.cancel_scope.cancel()
            seqs = [event.seq for event in await read_all(store)]
            assert seqs in (list(range(1, end + 1)), list(range(1, end + 3))), f"behind {end} it left {seqs[end:]}"
            if len(seqs) > end:
                end, title = len(seqs), f"{n}"
            kept = (await record_of(store)).title
            assert kept == title, f"the record is that of append {kept}, the events those of {title}"
        await store.append("s", end, [event(end + 1)])

    async def test_nobody_reads_half_an_append(self, store: EventStore) -> None:
        """A reader sees all events of a concurrent append, with its record, or none."""
        await store.create(record(title="0"))
        over = anyio.Event()

        async def write() -> None:
            for n in range(30):
                await store.append("s", n * 3, [event(n * 3 + m) for m in (1, 2, 3)], record(title=f"{n * 3 + 3}"))
                await anyio.lowlevel.checkpoint()
            over.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            while not over.is_set():
                seqs = [event.seq for event in await read_all(store)]
                assert seqs == list(range(1, len(seqs) + 1)), f"read while others append: {seqs}"
                assert len(seqs) % 3 == 0, f"of an append of three events {len(seqs) % 3} were seen"
                found = await record_of(store)
                assert found.title == f"{found.last_seq}", f"the record of {found.title} with the end {found.last_seq}"
                await anyio.lowlevel.checkpoint()

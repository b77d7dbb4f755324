"""Tests of reading what was appended."""

from __future__ import annotations

from portico.core.store import READ_BYTES, EventStore
from portico.testing.store.samples import MIB, SLACK_BYTES, STRANGE_BYTES, event, read_all, record, turn
from portico.testing.store.store_harness import StoreHarness


class EventTests(StoreHarness):
    """Tests of reading what was appended."""

    async def test_events_are_read_in_order(self, store: EventStore) -> None:
        """Events are read in the order of their appends, and each is found by its seq."""
        await store.create(record())
        events = [event(n) for n in range(1, 31)]
        for first in range(0, 30, 3):
            await store.append("s", first, events[first : first + 3])
        found = await read_all(store)
        assert found == events, f"appended were 1 to 30, read were {[event.seq for event in found]}"
        for expected in events:
            got = await store.event("s", expected.seq)
            assert got == expected, f"event({expected.seq}) gave {got}"
        for seq in (-1, 0, 31, 2**63 - 1):
            assert await store.event("s", seq) is None, f"event({seq}) gave an event where there is none"

    async def test_a_read_goes_on_behind_after(self, store: EventStore) -> None:
        """A read brings the events that follow ``after``, at most ``limit`` of them, and nothing behind the end."""
        await store.create(record())
        events = [event(n) for n in range(1, 21)]
        await store.append("s", 0, events)
        for after in range(20):
            for limit in (1, 3, 20, 1000):
                found = list(await store.read("s", after, limit))
                assert found, f"read(after={after}, limit={limit}) brought nothing"
                seqs = [event.seq for event in found]
                assert len(found) <= limit, f"read(after={after}, limit={limit}) brought {seqs}"
                assert found == events[after : after + len(found)], f"read(after={after}, limit={limit}) brought {seqs}"
        for after in (20, 21, 1000):
            assert not await store.read("s", after, 10), f"read(after={after}) brought something behind the end"

    async def test_a_read_is_bounded_in_bytes(self, store: EventStore) -> None:
        """A read brings about ``max_bytes`` at most, two MiB unless told, but one event if there is any."""
        await store.create(record())
        data = bytes(range(256)) * 256
        events = [event(n, data=data) for n in range(1, 65)]
        await store.append("s", 0, events)
        for max_bytes in (0, 1, MIB, None):
            if max_bytes is None:
                found = await store.read("s", 0, 1000)
            else:
                found = await store.read("s", 0, 1000, max_bytes=max_bytes)
            size = sum(len(event.data) for event in found)
            assert found, f"read(max_bytes={max_bytes}) brought nothing"
            most = (READ_BYTES if max_bytes is None else max_bytes) + SLACK_BYTES + len(data)
            assert size <= most, f"read(max_bytes={max_bytes}) brought {size} bytes"
        assert await read_all(store) == events, "events are missing, or doubled, where reads were cut"

    async def test_the_bytes_of_an_event_come_back_unchanged(self, store: EventStore) -> None:
        """An event's type, turn and bytes come back exactly as they were appended."""
        await store.create(record())
        turns = (None, "T", "0.1_2:3-4", "t" * 128)
        events = [
            event(n, f"kind {n}", turns[n % len(turns)], data) for n, data in enumerate(STRANGE_BYTES * len(turns), 1)
        ]
        await store.append("s", 0, events)
        for expected, found in zip(events, await read_all(store), strict=True):
            assert found == expected, f"{expected} came back as {found}"
            assert type(found.data) is bytes, f"the data of an event came back as {type(found.data).__name__}"

    async def test_large_events_come_back_whole(self, store: EventStore) -> None:
        """Events of a MiB are kept, several in one append, and stay whole in a tidy."""
        await store.create(record())
        events = [event(n, data=bytes([n]) * 77 + bytes(range(256)) * 4096) for n in range(1, 5)]
        await store.append("s", 0, events[:3])
        await store.append("s", 3, events[3:])
        await store.append("s", 4, [event(5, "complete")])
        for when in ("", " after a tidy"):
            found = (await read_all(store))[:4]
            assert found == events, f"the events came back with {[len(event.data) for event in found]} bytes{when}"
            await store.tidy()

    async def test_many_events_go_into_one_append(self, store: EventStore) -> None:
        """An append may hold thousands of events."""
        await store.create(record())
        events = turn(1, 3000, "t")
        await store.append("s", 0, events)
        found = await read_all(store)
        assert found == events, f"of 3000 events {len(found)} were read"

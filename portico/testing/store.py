"""What every store has to do, as a class of tests.

class TestMyStore(StoreConformance):
    def create(self, folder: Path) -> EventStore:
        return MyStore(folder / "my.db")
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from portico.core.agent import AgentOptions
from portico.core.errors import Conflict, InvalidRequest, NotFound, PorticoError, SequenceConflict
from portico.core.events import Event, encode_json
from portico.core.state import State
from portico.core.store import READ_BYTES, EventStore, SessionRecord, TurnSpan

MIB = 1024 * 1024

SLACK_BYTES = MIB // 2
"""By as much, and by one event, a read may go beyond ``max_bytes``: "about" leaves a store its own blocks."""

STRANGE_BYTES: tuple[bytes, ...] = (
    b"",
    b"{}",
    b'{ "b": 1.0, "a": 1, "a": 2 }\n',  # JSON that another encoder would write otherwise
    encode_json({"content": "half of a pair: \ud800"}),
    '{"content":"ü\U0001f600\u2028\\u0000"}'.encode(),
    b"\x00\xff\n\r",
)

WHOLE: dict[str, Any] = {
    "agent_id": "b",
    "owner": "bob \N{LATIN SMALL LETTER U WITH DIAERESIS}",
    "driver": "other",
    "state": State.HIBERNATED,
    "cwd": "/tmp/\N{SNOWMAN}",  # noqa: S108 - a value, nothing is written there
    "own_workspace": True,
    "options": AgentOptions(
        model="m",
        permission_mode="plan",
        system_prompt="",
        append_system_prompt="'; --",
        allowed_tools=("Read", "Bash(ls:*)"),
        disallowed_tools=("Write",),
        mcp_servers={"x": {"args": ["y", 1], "env": {}}},
        max_turns=3,
        setting_sources=("user",),
    ),
    "created_at": "2026-01-01T00:00:00.001Z",
    "last_active_at": "2026-02-01T00:00:00.002Z",
    "title": 'half of a pair: \ud800"\n\U0001f600',
    "metadata": {"ü": [None, True, 1.5, {"\udfff": ""}], "": {}},
    "turns": 7,
    "usage": {"input_tokens": 12, "more": {"n": 1}},
    "cost_usd": 0.1 + 0.2,
}
"""Every field that a store keeps for others, with a value that is not its default."""

FOREIGN_CURSORS = ("", "x", "ü", "\0", "\ud800", "../..", "e30", "W10", "bnVsbA", "WzEsIDJd", "W1tbW1tb", "A" * 1024)


def record(session_id: str = "s", **fields: Any) -> SessionRecord:
    values: dict[str, Any] = {
        "agent_id": "a",
        "owner": "alice",
        "driver": "echo",
        "state": State.IDLE,
        "cwd": "/",
        "own_workspace": False,
        "options": AgentOptions(),
        "created_at": "2026-01-01T00:00:00.000Z",
        "last_active_at": "2026-01-01T00:00:00.000Z",
    }
    return SessionRecord(session_id=session_id, **values | fields)


def event(seq: int, kind: str = "delta", turn_id: str | None = "t", data: bytes | None = None) -> Event:
    return Event(seq, kind, turn_id, b'{"seq":%d}' % seq if data is None else data)


def turn(first_seq: int, count: int, turn_id: str, *, size: int = 20) -> list[Event]:
    """A whole turn of ``count`` events, each of ``size`` bytes."""
    kinds = ["query", *["delta"] * (count - 2), "complete"]
    return [event(first_seq + n, kind, turn_id, b"%0*d" % (size, first_seq + n)) for n, kind in enumerate(kinds)]


async def read_all(store: EventStore, session_id: str = "s", after: int = 0, limit: int = 1000) -> list[Event]:
    """Everything behind ``after``, page by page."""
    found: list[Event] = []
    while events := await store.read(session_id, after, limit):
        assert len(events) <= limit, f"read() brought {len(events)} events where {limit} were the limit"
        assert events[-1].seq > after, f"read() behind {after} brought the event {events[-1].seq}: it never ends"
        found += events
        after = events[-1].seq
    return found


class _Bounded:
    """A store whose every call fails the test where it takes too long."""

    def __init__(self, store: EventStore, seconds: float) -> None:
        self._store = store
        self._seconds = seconds

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with anyio.move_on_after(self._seconds) as scope:
                return await getattr(self._store, name)(*args, **kwargs)
            assert not scope.cancelled_caught, f"{name}() took longer than {self._seconds} s"

        return call


class StoreConformance:
    """Subclass it, and say in `create` how the store is made.

    Needs pytest and anyio's plugin for it, which comes with anyio. Each test has a fresh folder.
    """

    pytestmark = pytest.mark.anyio

    durable = True
    """Whether `create`, called again with the same folder, gives a store that has what the one before kept."""

    call_seconds = 10.0
    """How long any call may take."""

    def create(self, folder: Path) -> EventStore:
        """A store that was not opened yet, and drops nothing while the test runs (no retention, or a long one).

        Its place is named by ``folder``, which is empty at first: a file in it, or a database of that name.
        """
        raise NotImplementedError

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[EventStore]:
        async with self.opened(tmp_path) as store:
            yield store

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[EventStore]:
        store = cast(EventStore, _Bounded(self.create(folder), self.call_seconds))
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    # Events.

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

    # Fencing.

    async def test_an_append_behind_another_end_is_refused(self, store: EventStore) -> None:
        """Who expects another end than the history's gets `SequenceConflict`, also without events."""
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
        before = await _all_seen(store, ["s"])
        for expected in (0, 2, 4):
            try:
                await store.append("s", expected, [event(expected + 1, "query", "u")], record(title="new"))
            except SequenceConflict:
                _compare(before, await _all_seen(store, ["s"]), "a refused append")
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
        assert (await _record_of(store)).title == f"{won[0]}", "the record of another append was kept"

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
            kept = (await _record_of(store)).title
            assert kept == title, f"the record is that of append {kept}, the events those of {title}"
        await store.append("s", end, [event(end + 1)])

    async def test_nobody_reads_half_an_append(self, store: EventStore) -> None:
        """Who reads while others append sees all events of an append, with its record, or none."""
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
                found = await _record_of(store)
                assert found.title == f"{found.last_seq}", f"the record of {found.title} with the end {found.last_seq}"
                await anyio.lowlevel.checkpoint()

    # Records.

    async def test_a_record_comes_back_whole(self, store: EventStore) -> None:
        """Every field of a record comes back as it was, also options, odd text, and half of a surrogate pair."""
        await store.create(record("a", **WHOLE))
        await store.create(record("b"))
        await store.append("b", 0, [], record("b", **WHOLE))
        page, _ = await store.list(owner=WHOLE["owner"], state=None, limit=10, cursor=None)
        for name in ("a", "b"):
            for found in (await _record_of(store, name), *(found for found in page if found.session_id == name)):
                for field, value in WHOLE.items():
                    got = getattr(found, field)
                    assert got == value, f"{field} was {value!r}, and came back as {got!r}"
                assert isinstance(found.options, AgentOptions), "options came back as something else than AgentOptions"
        assert {found.session_id for found in page} == {"a", "b"}, "a record is missing from the list"

    async def test_every_state_comes_back(self, store: EventStore) -> None:
        """A record's state comes back as the `State` itself, for each of them."""
        for state in State:
            await store.create(record(state, state=state))
            assert (await _record_of(store, state)).state is state, f"{state} came back as something else"

    async def test_a_record_stays_until_another_is_given(self, store: EventStore) -> None:
        """An append with a record replaces it, also without events; one without a record leaves it alone."""
        await store.create(record(title="first"))
        await store.append("s", 0, [event(1)])
        assert (await _record_of(store)).title == "first", "an append without a record has changed it"
        await store.append("s", 1, [event(2)], record(title="second"))
        assert (await _record_of(store)).title == "second", "the record of an append was not kept"
        await store.append("s", 2, [], record(title="third", state=State.CLOSED))
        assert (await _record_of(store)).title == "third", "the record of an append without events was not kept"
        await store.append("s", 2, [event(3)])
        assert (await _record_of(store)).title == "third", "an append without a record has brought an older one back"
        page, _ = await store.list(owner=None, state="closed", limit=10, cursor=None)
        assert [found.title for found in page] == ["third"], "the list does not go by the record that was given last"

    async def test_a_record_tells_the_end_of_the_history(self, store: EventStore) -> None:
        """The ``last_seq`` of a record is the seq of the last event, also where no record came with it."""
        await store.create(record())
        for given in (None, record(), None):
            end = (await _record_of(store)).last_seq
            await store.append("s", end, [event(end + 1), event(end + 2)], given)
            found = (await _record_of(store)).last_seq
            assert found == end + 2, f"the history ends at {end + 2}, its record says {found}"
        page, _ = await store.list(owner=None, state=None, limit=10, cursor=None)
        assert [found.last_seq for found in page] == [6], "the list tells another end than get()"

    async def test_an_id_is_taken_once(self, store: EventStore) -> None:
        """A second session of the same id gets `Conflict` (``session_exists``) and leaves the first one alone."""
        await store.create(record(title="first"))
        await store.append("s", 0, turn(1, 3, "t"))
        before = await _all_seen(store, ["s"])
        with pytest.raises(Conflict) as caught:
            await store.create(record(title="second", owner="bob"))
        assert caught.value.code == "session_exists", f"the code of the Conflict is {caught.value.code}"
        _compare(before, await _all_seen(store, ["s"]), "the refused create")

    async def test_of_many_who_create_at_once_one_wins(self, store: EventStore) -> None:
        """Of many who make a session of the same id at once, one does and all others get `Conflict`."""
        made: list[str] = []

        async def create(owner: str) -> None:
            try:
                await store.create(record(owner=owner))
            except Conflict:
                return
            made.append(owner)

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(create, f"owner {n}")
        assert len(made) == 1, f"{len(made)} of 20 made the same session"
        assert (await _record_of(store)).owner == made[0], "another one's session was kept"

    async def test_what_is_not_there_is_none(self, store: EventStore) -> None:
        """Of a session that is not there every reading method finds nothing, and a delete does nothing."""
        assert await store.get("s") is None
        assert not await store.read("s", 0, 10)
        assert await store.event("s", 1) is None
        assert await store.turn("s", "t") is None
        try:
            await store.delete("s")
        except PorticoError as error:
            raise AssertionError(f"delete() of no session raised {error!r}") from error
        assert await store.get("s") is None
        assert await store.list(owner=None, state=None, limit=10, cursor=None) == ([], None)

    async def test_ids_are_exact(self, store: EventStore) -> None:
        """Session and turn ids that differ in anything, also in upper and lower case, are different ones."""
        names = ("s", "S", "s.", "s-1", "s_1", "s.1", "s" * 63, "s" * 64)
        for n, name in enumerate(names, 1):
            try:
                await store.create(record(name, title=name))
            except Conflict as error:
                raise AssertionError(f"{name} was taken for another of {names}") from error
            await store.append(name, 0, [event(m, "query", turn_id) for m, turn_id in enumerate(names[:n], 1)])
        for n, name in enumerate(names, 1):
            assert (await _record_of(store, name)).title == name, f"{name} is another's session"
            for m, turn_id in enumerate(names, 1):
                expected = TurnSpan(turn_id, m, None) if m <= n else None
                span = await store.turn(name, turn_id)
                assert span == expected, f"turn({name!r}, {turn_id!r}) gave {span}"

    # Turns.

    async def test_a_turn_spans_from_its_first_event_to_its_complete(self, store: EventStore) -> None:
        """A turn's span begins with its first event, and ends with its ``complete`` once there is one."""
        await store.create(record())
        await store.append("s", 0, [event(1, "session", None), event(2, "query"), event(3, "query", "u"), event(4)])
        await self._check_spans(store, t=(2, None), u=(3, None))
        await store.append("s", 4, [event(5, "complete"), event(6, turn_id="u"), event(7, "session", None)])
        await self._check_spans(store, t=(2, 5), u=(3, None))
        await store.append("s", 7, [event(8, "complete", "v"), event(9, "complete", "u"), *turn(10, 3, "w")])
        await self._check_spans(store, t=(2, 5), u=(3, 9), v=(8, 8), w=(10, 12), x=None)

    async def _check_spans(self, store: EventStore, **spans: tuple[int, int | None] | None) -> None:
        for turn_id, ends in spans.items():
            expected = None if ends is None else TurnSpan(turn_id, *ends)
            found = await store.turn("s", turn_id)
            assert found == expected, f"turn({turn_id!r}) gave {found}, its span is {expected}"

    async def test_turns_without_a_complete_are_unfinished(self, store: EventStore) -> None:
        """`unfinished` tells of all turns of all sessions that have no ``complete``, and of no others."""
        for name in ("a", "b", "c"):
            await store.create(record(name))
            await store.append(name, 0, [*turn(1, 5, "done"), event(6, "session", None)])
        await self._check_unfinished(store)
        await store.append("a", 6, [event(7, "query", "t"), event(8, "query", "u")])
        await store.append("b", 6, [event(7, "query", "t")], record("b", state=State.CLOSED))
        await self._check_unfinished(store, ("a", "t"), ("a", "u"), ("b", "t"))
        await store.append("a", 8, [event(9, "complete", "t")])
        await self._check_unfinished(store, ("a", "u"), ("b", "t"))

    async def _check_unfinished(self, store: EventStore, *expected: tuple[str, str]) -> None:
        found = [tuple(pair) for pair in await store.unfinished()]
        assert sorted(found) == sorted(expected), f"unfinished() gave {found}, without a complete are {expected}"

    async def test_unfinished_turns_come_oldest_first(self, store: EventStore) -> None:
        """Of each session `unfinished` gives the turn first that began first."""
        names = ("z", "a", "m", "B")
        await store.create(record("s"))
        await store.create(record("r"))
        for n, turn_id in enumerate(names):
            await store.append("s", n, [event(n + 1, "query", turn_id)])
            await store.append("r", n, [event(n + 1, "query", names[-1 - n])])
        found = await store.unfinished()
        for session_id, expected in (("s", names), ("r", names[::-1])):
            turns = tuple(turn_id for name, turn_id in found if name == session_id)
            assert turns == expected, f"the turns of {session_id} began as {expected}, unfinished() gave {turns}"

    # Pages of sessions.

    async def test_pages_are_newest_first(self, store: EventStore) -> None:
        """Pages go by the time of creation, the newest first, whatever order sessions were made and used in."""
        days = (3, 1, 2, 1, 5, 1, 4)
        for n, day in enumerate(days):
            await store.create(record(f"s{n}", created_at=f"2026-01-0{day}T00:00:00.000Z"))
        await store.append("s1", 0, [event(1)], record("s1", last_active_at="2026-03-01T00:00:00.000Z"))
        for limit in (1, 2, 3, 10):
            found = [record async for record in _pages(store, limit)]
            times = [record.created_at for record in found]
            assert times == sorted(times, reverse=True), f"by pages of {limit} the times were {times}"
            names = sorted(record.session_id for record in found)
            assert names == [f"s{n}" for n in range(len(days))], f"by pages of {limit} there were {names}"

    async def test_pages_are_whole_while_sessions_come_and_go(self, store: EventStore) -> None:
        """Sessions that are made or deleted between two pages neither hide nor double any other."""
        for n in range(12):  # two at a time share their time of creation
            await store.create(record(f"s{n:02}", created_at=f"2026-01-01T00:00:{n // 2:02}.000Z"))
        seen: list[str] = []
        cursor: str | None = None
        for number in range(100):
            page, cursor = await store.list(owner="alice", state=None, limit=3, cursor=cursor)
            seen += [found.session_id for found in page]
            if cursor is None:
                break
            assert page, "a page that is not the last one was empty"
            if number % 2:
                await store.delete(page[-1].session_id)  # the one where the next page goes on
            else:
                await store.create(record(f"new{number}", created_at=f"2026-02-01T00:00:{number:02}.000Z"))
        assert sorted(seen) == [f"s{n:02}" for n in range(12)], f"s00 to s11 were there all the time, seen were {seen}"

    async def test_the_last_page_has_no_cursor(self, store: EventStore) -> None:
        """A page is full and has a cursor while more follow; the last one has none."""
        for n in range(6):
            await store.create(record(f"s{n}"))
        for limit, sizes in ((2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (1000, [6])):
            found: list[int] = []
            cursor: str | None = None
            while not found or (cursor is not None and len(found) < len(sizes)):
                page, cursor = await store.list(owner=None, state=None, limit=limit, cursor=cursor)
                found.append(len(page))
            assert found == sizes, f"six sessions by {limit} came as {found}"
            assert cursor is None, f"six sessions by {limit}: the last page has a cursor"

    async def test_a_page_is_of_one_owner_or_state(self, store: EventStore) -> None:
        """A list is of the owner and the state that were asked for exactly, page by page."""
        owners = ("alice", "Alice", "alice ", "al%", "a_ice", "%", "\N{LATIN SMALL LETTER A WITH ACUTE}lice")
        for n, owner in enumerate(owners):
            for state in State:
                await store.create(record(f"{n}.{state}", owner=owner, state=state))
        for asked_owner in (None, *owners, "nobody"):
            for asked_state in (None, State.IDLE, State.CLOSED):
                expected = {
                    (owner, state)
                    for owner in owners
                    for state in State
                    if asked_owner in (None, owner) and asked_state in (None, state)
                }
                found = [record async for record in _pages(store, 3, owner=asked_owner, state=asked_state)]
                got = {(record.owner, record.state) for record in found}
                asked = f"list(owner={asked_owner!r}, state={asked_state!r})"
                assert got == expected, f"{asked} missed {expected - got}, and should not have {got - expected}"
                assert len(found) == len(expected), f"{asked} gave sessions twice"

    async def test_a_cursor_of_somebody_else_is_refused(self, store: EventStore) -> None:
        """A cursor that the store has not given gets `InvalidRequest` (``invalid_cursor``)."""
        await store.create(record())
        for cursor in FOREIGN_CURSORS:
            try:
                page = await store.list(owner=None, state=None, limit=1, cursor=cursor)
            except InvalidRequest as error:
                assert error.code == "invalid_cursor", f"the code for the cursor {cursor!r} is {error.code}"
            except Exception as error:
                raise AssertionError(f"the cursor {cursor!r} raised {error!r}") from error
            else:
                raise AssertionError(f"the cursor {cursor!r} was taken, and gave {page}")

    # Deleting.

    async def test_a_delete_forgets_everything(self, store: EventStore) -> None:
        """A deleted session is gone from everywhere at once, with its events and turns."""
        await store.create(record())
        await store.append("s", 0, [*turn(1, 5, "t"), event(6, "query", "u")])
        await store.tidy()
        await store.append("s", 6, [event(7, turn_id="u")])
        await store.delete("s")
        assert await store.get("s") is None, "get() still finds it"
        assert await store.list(owner=None, state=None, limit=10, cursor=None) == ([], None), "list() still tells of it"
        assert not await store.read("s", 0, 10), "read() still finds its events"
        assert await store.event("s", 1) is None, "event() still finds its events"
        assert await store.turn("s", "t") is None, "turn() still finds its turns"
        assert not await store.unfinished(), "unfinished() still tells of its turns"
        with pytest.raises(NotFound):
            await store.append("s", 7, [event(8)])

    async def test_a_deleted_id_is_free_again(self, store: EventStore) -> None:
        """A session with the id of a deleted one begins with nothing of it, also after a tidy."""
        await store.create(record(title="first"))
        await store.append("s", 0, [*turn(1, 5, "t"), event(6, "query", "u")])
        await store.delete("s")
        try:
            await store.create(record(title="second"))
        except Conflict as error:
            raise AssertionError("the id of a deleted session is not free") from error
        assert await _record_of(store) == record(title="second"), "the new session has the record of the deleted one"
        events = [event(1, "query", "v"), event(2, turn_id="v", data=b"new")]
        try:
            await store.append("s", 0, events)
        except SequenceConflict as error:
            raise AssertionError("the history of the new session begins behind that of the deleted one") from error
        for when in ("", " after a tidy"):
            assert await read_all(store) == events, f"the new session has events of the deleted one{when}"
            for turn_id in ("t", "u"):
                assert await store.turn("s", turn_id) is None, f"the new session has turns of the deleted one{when}"
            assert [tuple(pair) for pair in await store.unfinished()] == [("s", "v")]
            await store.tidy()

    async def test_a_delete_leaves_all_others_alone(self, store: EventStore) -> None:
        """Deleting a session changes nothing of any other."""
        names = await _fill(store)
        await store.create(record("gone"))
        await store.append("gone", 0, [*turn(1, 5, "t0"), event(6, "query", "open")])
        others = await _all_seen(store, names, but="gone")
        await store.delete("gone")
        await store.tidy()
        _compare(others, await _all_seen(store, names), "the delete of another session")

    # Housekeeping, and the end.

    async def test_tidy_changes_nothing_that_readers_see(self, store: EventStore) -> None:
        """Tidying, once and again, changes nothing that anybody can read, and appends go on behind it."""
        names = await _fill(store)
        before = await _all_seen(store, names)
        await store.tidy()
        _compare(before, await _all_seen(store, names), "tidy()")
        await store.tidy()
        _compare(before, await _all_seen(store, names), "the second tidy()")
        found = await _record_of(store, names[0])
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
        """What an append returned for is there when the store is opened again, and the fence holds."""
        self._skip_unless_durable()
        async with self.opened(tmp_path) as store:
            names = await _fill(store)
            before = await _all_seen(store, names)
        async with self.opened(tmp_path) as store:
            _compare(before, await _all_seen(store, names), "opening it again")
            await store.tidy()
            end = (await _record_of(store, names[0])).last_seq
            with pytest.raises(SequenceConflict):
                await store.append(names[0], end - 1, [event(end)])
            await store.append(names[0], end, [event(end + 1)])
            before = await _all_seen(store, names)
        async with self.opened(tmp_path) as store:
            _compare(before, await _all_seen(store, names), "opening it a third time")

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

    def _skip_unless_durable(self) -> None:
        if not self.durable:
            pytest.skip("a store with durable = False keeps nothing over a restart")


async def _record_of(store: EventStore, session_id: str = "s") -> SessionRecord:
    found = await store.get(session_id)
    assert found is not None, f"get() does not find the session {session_id}"
    assert found.session_id == session_id, f"get({session_id!r}) gave the session {found.session_id!r}"
    return found


async def _pages(
    store: EventStore, limit: int, *, owner: str | None = None, state: str | None = None
) -> AsyncIterator[SessionRecord]:
    """All sessions, page by page."""
    cursor: str | None = None
    for _ in range(1000):
        page, cursor = await store.list(owner=owner, state=state, limit=limit, cursor=cursor)
        assert len(page) <= limit, f"a page of {limit} has {len(page)} sessions"
        for found in page:
            yield found
        if cursor is None:
            return
    raise AssertionError("the pages never end")


async def _fill(store: EventStore) -> list[str]:
    """A few sessions of all kinds; their names."""
    names = ["long", "queued", "idle", "empty"]
    long, queued, idle, _ = names
    for n, name in enumerate(names):
        await store.create(record(name, title=name, created_at=f"2026-01-0{n + 1}T00:00:00.000Z"))
    end = 0
    for n in range(8):
        events = [event(end + 1, "session", None), *turn(end + 2, 30, f"t{n}", size=100)]
        await store.append(long, end, events, record(long, title=f"turn {n}") if n % 3 == 0 else None)
        end += len(events)
    # One turn still runs, and began before others that are over; one waits.
    events = [event(1, "query", "open"), *turn(2, 10, "over"), event(12, "query", "waits"), event(13, turn_id="open")]
    await store.append(queued, 0, events, record(queued, state=State.RUNNING))
    strange = [event(n, "delta", "t", data) for n, data in enumerate(STRANGE_BYTES, 1)]
    await store.append(idle, 0, [*strange, event(len(strange) + 1, "complete")], record(idle, **WHOLE))
    return names


async def _all_seen(store: EventStore, names: Iterable[str], *, but: str | None = None) -> dict[str, object]:
    """Everything that can be read, by how it was asked for."""
    unfinished = [tuple(pair) for pair in await store.unfinished()]
    listed = [found async for found in _pages(store, 3)]
    seen: dict[str, object] = {
        "unfinished()": sorted(pair for pair in unfinished if pair[0] != but),
        "list()": [found for found in listed if found.session_id != but],
    }
    for name in names:
        events = await read_all(store, name)
        turns = {event.turn_id for event in events if event.turn_id is not None}
        seen[f"get({name!r})"] = await store.get(name)
        seen[f"all events of {name!r}"] = events
        seen[f"events of {name!r} from the middle"] = await read_all(store, name, len(events) // 2, 7)
        seen[f"each event of {name!r}"] = [await store.event(name, event.seq) for event in events]
        seen[f"the turns of {name!r}"] = {turn_id: await store.turn(name, turn_id) for turn_id in sorted(turns)}
    return seen


def _compare(before: dict[str, object], after: dict[str, object], what: str) -> None:
    changed = [f"{name}: {before[name]}, then {after[name]}" for name in before if before[name] != after[name]]
    assert not changed, f"{what} has changed {changed[0][:2000]}"

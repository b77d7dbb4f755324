"""What every store has to do, as a class of tests: a subclass says how its store is made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import AgentOptions
from portico.core.errors import Conflict, InvalidRequest, NotFound, SequenceConflict
from portico.core.events import Event
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord, TurnSpan


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
        assert len(events) <= limit
        found += events
        after = events[-1].seq
    return found


class StoreConformance:
    pytestmark = pytest.mark.anyio

    def make_store(self, folder: Path) -> EventStore:
        raise NotImplementedError

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[EventStore]:
        store = self.make_store(tmp_path)
        await store.open()
        yield store
        await store.close()

    # Events.

    async def test_what_was_appended_is_read_in_order(self, store: EventStore) -> None:
        await store.create(record())
        await store.append("s", 0, [event(1), event(2)])
        await store.append("s", 2, [event(3)], record(last_seq=3))
        assert list(await store.read("s", 0, 2)) == [event(1), event(2)]
        assert list(await store.read("s", 2, 10)) == [event(3)]
        assert list(await store.read("s", 3, 10)) == []
        assert list(await store.read("s", 0, 0)) == []
        assert await store.event("s", 2) == event(2)
        assert await store.event("s", 4) is None
        assert await store.event("s", 0) is None
        assert await store.get("s") == record(last_seq=3)

    @pytest.mark.parametrize("data", [b"", b"\x00\xff\n\r", "ü\U0001f600\u2028".encode(), b"x" * 3_000_000])
    @pytest.mark.parametrize("turn_id", [None, "", "ü"])
    async def test_every_byte_comes_back(self, store: EventStore, data: bytes, turn_id: str | None) -> None:
        await store.create(record())
        events = [event(1, "any", turn_id, data), event(2)]
        await store.append("s", 0, events)
        assert await read_all(store) == events
        await store.tidy()
        assert await read_all(store) == events
        assert await store.event("s", 1) == events[0]

    @pytest.mark.parametrize("expected", [0, 2])
    async def test_who_does_not_know_the_end_can_not_append(self, store: EventStore, expected: int) -> None:
        await store.create(record())
        await store.append("s", 0, [event(1)], record(last_seq=1))
        with pytest.raises(SequenceConflict):
            await store.append("s", expected, [event(expected + 1, turn_id="u")], record(last_seq=9))
        assert list(await store.read("s", 0, 10)) == [event(1)]
        assert await store.get("s") == record(last_seq=1)
        assert await store.turn("s", "u") is None

    async def test_a_record_is_kept_without_events(self, store: EventStore) -> None:
        await store.create(record())
        await store.append("s", 0, [], record(title="new", state=State.CLOSED))
        assert await store.get("s") == record(title="new", state=State.CLOSED)
        page, _ = await store.list(owner=None, state="closed", limit=1, cursor=None)
        assert page == [record(title="new", state=State.CLOSED)]

    async def test_a_record_comes_back_whole(self, store: EventStore) -> None:
        options = AgentOptions("m", "plan", "a", "b", ("Read", "Bash(ls:*)"), ("Write",), {"x": {"y": [1]}}, 3)
        whole = record(
            options=options,
            state=State.HIBERNATED,
            title='\ud800"\n',
            metadata={"ü": [None, 1.5, {"\udfff": ""}]},
            turns=7,
            usage={"in": {"n": 1}},
            cost_usd=0.1,
            own_workspace=True,
        )
        await store.create(whole)
        assert await store.get("s") == whole

    async def test_of_many_who_append_at_once_one_wins(self, store: EventStore) -> None:
        await store.create(record())
        won: list[bytes] = []

        async def append(n: int) -> None:
            try:
                await store.append("s", 0, [event(1, data=b"%d" % n), event(2, data=b"%d" % n)])
            except SequenceConflict:
                return
            won.append(b"%d" % n)

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(append, n)
        assert [found.data for found in await store.read("s", 0, 99)] == won * 2

    async def test_sessions_that_append_at_once_do_not_mix(self, store: EventStore) -> None:
        async def live(name: str) -> None:
            await store.create(record(name))
            for n in range(0, 60, 2):
                await store.append(name, n, [event(n + 1, data=name.encode()), event(n + 2, data=name.encode())])
                with pytest.raises(SequenceConflict):  # one that is refused harms nobody who commits beside it
                    await store.append(name, n, [event(n + 1)])

        names = [f"s{n}" for n in range(8)]
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(live, name)
        for name in names:
            assert await read_all(store, name) == [event(n, data=name.encode()) for n in range(1, 61)]

    async def test_a_cancelled_append_leaves_all_or_nothing(self, store: EventStore) -> None:
        await store.create(record())
        end = 0
        for n in range(40):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.append, "s", end, [event(end + 1), event(end + 2)])
                for _ in range(n % 4):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            events = await read_all(store)
            assert len(events) in (end, end + 2)
            assert events == [event(seq) for seq in range(1, len(events) + 1)]
            end = len(events)
        await store.append("s", end, [event(end + 1)])

    # Turns.

    async def test_a_turn_spans_from_its_query_to_its_complete(self, store: EventStore) -> None:
        await store.create(record())
        await store.append("s", 0, [event(1, "session", None), event(2, "query"), event(3, "query", "u"), event(4)])
        assert await store.turn("s", "t") == TurnSpan("t", 2, None)
        await store.append("s", 4, [event(5, "complete")])
        assert await store.turn("s", "t") == TurnSpan("t", 2, 5)
        assert await store.turn("s", "u") == TurnSpan("u", 3, None)
        assert await store.turn("s", "v") is None
        assert await store.turn("x", "t") is None

    async def test_turns_without_an_end_are_known(self, store: EventStore) -> None:
        for name in ("a", "b", "c"):
            await store.create(record(name))
            await store.append(name, 0, turn(1, 5, "done"))
        assert list(await store.unfinished()) == []
        await store.append("a", 5, [event(6, "query", "t"), event(7, "query", "u")])
        await store.append("b", 5, [event(6, "query", "t"), event(7, "session", None)])
        assert list(await store.unfinished()) == [("a", "t"), ("a", "u"), ("b", "t")]
        await store.append("a", 7, [event(8, "complete", "t")])
        assert list(await store.unfinished()) == [("a", "u"), ("b", "t")]
        await store.delete("b")
        assert list(await store.unfinished()) == [("a", "u")]

    # Sessions.

    async def test_an_id_is_taken_once_and_free_again_after_the_delete(self, store: EventStore) -> None:
        await store.create(record())
        with pytest.raises(Conflict) as caught:
            await store.create(record())
        assert caught.value.code == "session_exists"
        await store.append("s", 0, turn(1, 5, "t"))
        await store.tidy()
        await store.delete("s")
        await store.delete("s")
        assert await store.get("s") is None
        assert list(await store.read("s", 0, 10)) == []
        assert await store.event("s", 1) is None
        with pytest.raises(NotFound):
            await store.append("s", 5, [event(6)])
        await store.create(record())
        assert await store.turn("s", "t") is None
        await store.append("s", 0, [event(1, turn_id="t")])
        assert await read_all(store) == [event(1, turn_id="t")]

    async def test_pages_are_whole_while_sessions_come_and_go(self, store: EventStore) -> None:
        for n in range(10):
            # Two at a time share their time of creation.
            await store.create(record(f"s{n}", created_at=f"2026-01-01T00:00:0{n // 2}.000Z"))
        await store.create(record("other", owner="bob"))
        first, cursor = await store.list(owner="alice", state=None, limit=4, cursor=None)
        await store.create(record("new", created_at="2026-02-01T00:00:00.000Z"))
        await store.delete("s5")
        second, cursor = await store.list(owner="alice", state=None, limit=4, cursor=cursor)
        third, cursor = await store.list(owner="alice", state=None, limit=4, cursor=cursor)
        assert cursor is None
        seen = [found.session_id for found in [*first, *second, *third]]
        assert seen == ["s9", "s8", "s7", "s6", "s4", "s3", "s2", "s1", "s0"]

    async def test_time_may_jump_back(self, store: EventStore) -> None:
        for n, day in enumerate((3, 1, 2, 1)):
            await store.create(record(f"s{n}", created_at=f"2026-01-0{day}T00:00:00.000Z"))
        seen, cursor = [], None
        while True:
            page, cursor = await store.list(owner=None, state=None, limit=1, cursor=cursor)
            seen += [found.session_id for found in page]
            if cursor is None:
                break
        assert seen == ["s0", "s2", "s3", "s1"]

    async def test_a_page_is_of_one_owner_or_state(self, store: EventStore) -> None:
        await store.create(record("a"))
        await store.create(record("b", owner="bob"))
        await store.create(record("c", state=State.CLOSED))

        async def found(owner: str | None, state: str | None) -> set[str]:
            page, _ = await store.list(owner=owner, state=state, limit=10, cursor=None)
            return {found.session_id for found in page}

        assert await found(None, None) == {"a", "b", "c"}
        assert await found("bob", None) == {"b"}
        assert await found(None, "closed") == {"c"}
        assert await found("alice", "closed") == {"c"}
        assert await found("bob", "closed") == set()

    @pytest.mark.parametrize("cursor", ["", "x", "e30", "W10", "ü", "W1tbW1tbW1tb", "bnVsbA", "WzEsIDJd"])
    async def test_a_cursor_of_somebody_else_is_refused(self, store: EventStore, cursor: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await store.list(owner=None, state=None, limit=1, cursor=cursor)
        assert caught.value.code == "invalid_cursor"

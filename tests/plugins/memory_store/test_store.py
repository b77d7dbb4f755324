from typing import Any

import pytest

from portico.core.agent import AgentOptions
from portico.core.errors import Conflict, InvalidRequest, NotFound, SequenceConflict
from portico.core.events import Event
from portico.core.state import State
from portico.core.store import SessionRecord, TurnSpan
from portico.plugins.memory_store.store import MemoryStore

pytestmark = pytest.mark.anyio


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


def event(seq: int, kind: str = "delta", turn_id: str | None = "t") -> Event:
    return Event(seq, kind, turn_id, b'{"seq":%d}' % seq)


async def test_what_was_appended_is_read_in_order() -> None:
    store = MemoryStore()
    await store.create(record())
    await store.append("s", 0, [event(1), event(2)])
    await store.append("s", 2, [event(3)], record(last_seq=3))
    assert list(await store.read("s", 0, 2)) == [event(1), event(2)]
    assert list(await store.read("s", 2, 10)) == [event(3)]
    assert list(await store.read("s", 3, 10)) == []
    assert await store.event("s", 2) == event(2)
    assert await store.event("s", 4) is None
    assert await store.event("s", 0) is None
    assert (await store.get("s")) == record(last_seq=3)


@pytest.mark.parametrize("expected", [0, 2])
async def test_who_does_not_know_the_end_can_not_append(expected: int) -> None:
    store = MemoryStore()
    await store.create(record())
    await store.append("s", 0, [event(1)])
    with pytest.raises(SequenceConflict):
        await store.append("s", expected, [event(expected + 1)], record(last_seq=9))
    assert list(await store.read("s", 0, 10)) == [event(1)]
    assert (await store.get("s")) == record()


async def test_a_turn_spans_from_its_query_to_its_complete() -> None:
    store = MemoryStore()
    await store.create(record())
    await store.append("s", 0, [event(1, "session", None), event(2, "query"), event(3, "query", "u"), event(4)])
    assert await store.turn("s", "t") == TurnSpan("t", 2, None)
    await store.append("s", 4, [event(5, "complete")])
    assert await store.turn("s", "t") == TurnSpan("t", 2, 5)
    assert await store.turn("s", "u") == TurnSpan("u", 3, None)
    assert await store.turn("s", "v") is None


async def test_an_id_is_taken_once_and_free_again_after_the_delete() -> None:
    store = MemoryStore()
    await store.create(record())
    with pytest.raises(Conflict) as caught:
        await store.create(record())
    assert caught.value.code == "session_exists"
    await store.delete("s")
    await store.delete("s")
    assert await store.get("s") is None
    assert list(await store.read("s", 0, 10)) == []
    with pytest.raises(NotFound):
        await store.append("s", 0, [event(1)])
    await store.create(record())


async def test_pages_are_whole_while_sessions_come_and_go() -> None:
    store = MemoryStore()
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


async def test_a_page_is_of_one_owner_or_state() -> None:
    store = MemoryStore()
    await store.create(record("a"))
    await store.create(record("b", owner="bob"))
    await store.create(record("c", state=State.CLOSED))

    async def found(owner: str | None, state: str | None) -> set[str]:
        page, _ = await store.list(owner=owner, state=state, limit=10, cursor=None)
        return {found.session_id for found in page}

    assert await found(None, None) == {"a", "b", "c"}
    assert await found("bob", None) == {"b"}
    assert await found(None, "closed") == {"c"}


@pytest.mark.parametrize("cursor", ["", "x", "e30", "W10", "ü", "W1tbW1tbW1tb", "bnVsbA"])
async def test_a_cursor_of_somebody_else_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await MemoryStore().list(owner=None, state=None, limit=1, cursor=cursor)
    assert caught.value.code == "invalid_cursor"

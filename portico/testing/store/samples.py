"""Records, events and whole histories for the tests of stores, and how they are read back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from portico.core.agent import AgentOptions
from portico.core.events import Event, encode_json
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord

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
        permission_rules=({"id": "r", "type": "addDirectories", "directories": ["/ü"]},),
        output_schema={"type": "object", "properties": {"ü": {"type": "string"}}},
        effort="high",
        fallback_model="n",
        add_dirs=("/ü",),
        agents={"a": {"description": "d", "prompt": "ü"}},
        git_dirs=("/ü/.git",),
    ),
    "created_at": "2026-01-01T00:00:00.001Z",
    "last_active_at": "2026-02-01T00:00:00.002Z",
    "title": 'half of a pair: \ud800"\n\U0001f600',
    "metadata": {"ü": [None, True, 1.5, {"\udfff": ""}], "": {}},
    "turns": 7,
    "usage": {"input_tokens": 12, "more": {"n": 1}},
    "usage_by_model": {"m": {"output_tokens": 3, "cost_usd": 0.1, "cost_basis": "table"}},
    "cost_usd": 0.1 + 0.2,
    "cost_basis": "table",
    "budget_usd": 2.5,
    "schedules": ({"schedule_id": "s", "next_at": "2026-01-01T00:00:00.000Z", "recurring": True},),
    "tasks": ({"task_id": "t", "usage": {"ü": 1}, "more": [1, [2]]},),
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


async def record_of(store: EventStore, session_id: str = "s") -> SessionRecord:
    found = await store.get(session_id)
    assert found is not None, f"get() does not find the session {session_id}"
    assert found.session_id == session_id, f"get({session_id!r}) gave the session {found.session_id!r}"
    return found


async def pages(
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


async def fill(store: EventStore) -> list[str]:
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


async def all_seen(store: EventStore, names: Iterable[str], *, but: str | None = None) -> dict[str, object]:
    """Everything that can be read, by how it was asked for."""
    unfinished = [tuple(pair) for pair in await store.unfinished()]
    listed = [found async for found in pages(store, 3)]
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


def compare(before: dict[str, object], after: dict[str, object], what: str) -> None:
    changed = [f"{name}: {before[name]}, then {after[name]}" for name in before if before[name] != after[name]]
    assert not changed, f"{what} has changed {changed[0][:2000]}"

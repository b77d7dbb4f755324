"""Tests of the pages of sessions, and of deleting them."""

from __future__ import annotations

import pytest

from portico.core.errors import Conflict, InvalidRequest, NotFound, SequenceConflict
from portico.core.state import State
from portico.core.store import EventStore
from portico.testing.store.samples import (
    FOREIGN_CURSORS,
    all_seen,
    compare,
    event,
    fill,
    pages,
    read_all,
    record,
    record_of,
    turn,
)
from portico.testing.store.store_harness import StoreHarness


class PageTests(StoreHarness):
    """Tests of the pages of sessions, and of deleting them."""

    # Pages of sessions.

    async def test_pages_are_newest_first(self, store: EventStore) -> None:
        """Pages go by the time of creation, the newest first, whatever order sessions were made and used in."""
        days = (3, 1, 2, 1, 5, 1, 4)
        for n, day in enumerate(days):
            await store.create(record(f"s{n}", created_at=f"2026-01-0{day}T00:00:00.000Z"))
        await store.append("s1", 0, [event(1)], record("s1", last_active_at="2026-03-01T00:00:00.000Z"))
        for limit in (1, 2, 3, 10):
            found = [record async for record in pages(store, limit)]
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
                found = [record async for record in pages(store, 3, owner=asked_owner, state=asked_state)]
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
        assert await record_of(store) == record(title="second"), "the new session has the record of the deleted one"
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
        names = await fill(store)
        await store.create(record("gone"))
        await store.append("gone", 0, [*turn(1, 5, "t0"), event(6, "query", "open")])
        others = await all_seen(store, names, but="gone")
        await store.delete("gone")
        await store.tidy()
        compare(others, await all_seen(store, names), "the delete of another session")

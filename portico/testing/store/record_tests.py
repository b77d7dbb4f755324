"""Tests of sessions' records, and of the spans of their turns."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from portico.core.agent import AgentOptions
from portico.core.errors import Conflict, PorticoError
from portico.core.state import State
from portico.core.store import EventStore, TurnSpan
from portico.testing.store.samples import WHOLE, all_seen, compare, event, record, record_of, turn
from portico.testing.store.store_harness import StoreHarness


class RecordTests(StoreHarness):
    """Tests of sessions' records, and of the spans of their turns."""

    # Records.

    async def test_a_record_comes_back_whole(self, store: EventStore) -> None:
        """Every field of a record comes back as it was, also options, odd text, and half of a surrogate pair."""
        await store.create(record("a", **WHOLE))
        await store.create(record("b"))
        await store.append("b", 0, [], record("b", **WHOLE))
        page, _ = await store.list(owner=WHOLE["owner"], state=None, limit=10, cursor=None)
        for name in ("a", "b"):
            for found in (await record_of(store, name), *(found for found in page if found.session_id == name)):
                for field, value in WHOLE.items():
                    got = getattr(found, field)
                    assert got == value, f"{field} was {value!r}, and came back as {got!r}"
                assert isinstance(found.options, AgentOptions), "options came back as something else than AgentOptions"
        assert {found.session_id for found in page} == {"a", "b"}, "a record is missing from the list"

    async def test_every_state_comes_back(self, store: EventStore) -> None:
        """A record's state comes back as the `State` itself, for each of them."""
        for state in State:
            await store.create(record(state, state=state))
            assert (await record_of(store, state)).state is state, f"{state} came back as something else"

    async def test_a_record_stays_until_another_is_given(self, store: EventStore) -> None:
        """An append with a record replaces it, also without events; one without a record leaves it alone."""
        await store.create(record(title="first"))
        await store.append("s", 0, [event(1)])
        assert (await record_of(store)).title == "first", "an append without a record has changed it"
        await store.append("s", 1, [event(2)], record(title="second"))
        assert (await record_of(store)).title == "second", "the record of an append was not kept"
        await store.append("s", 2, [], record(title="third", state=State.CLOSED))
        assert (await record_of(store)).title == "third", "the record of an append without events was not kept"
        await store.append("s", 2, [event(3)])
        assert (await record_of(store)).title == "third", "an append without a record has brought an older one back"
        page, _ = await store.list(owner=None, state="closed", limit=10, cursor=None)
        assert [found.title for found in page] == ["third"], "the list does not go by the record that was given last"

    async def test_a_record_tells_the_end_of_the_history(self, store: EventStore) -> None:
        """The ``last_seq`` of a record is the seq of the last event, also where no record came with it."""
        await store.create(record())
        for given in (None, record(), None):
            end = (await record_of(store)).last_seq
            await store.append("s", end, [event(end + 1), event(end + 2)], given)
            found = (await record_of(store)).last_seq
            assert found == end + 2, f"the history ends at {end + 2}, its record says {found}"
        page, _ = await store.list(owner=None, state=None, limit=10, cursor=None)
        assert [found.last_seq for found in page] == [6], "the list tells another end than get()"

    async def test_an_id_is_taken_once(self, store: EventStore) -> None:
        """A second session of the same id gets `Conflict` (``session_exists``) and leaves the first one alone."""
        await store.create(record(title="first"))
        await store.append("s", 0, turn(1, 3, "t"))
        before = await all_seen(store, ["s"])
        with pytest.raises(Conflict) as caught:
            await store.create(record(title="second", owner="bob"))
        assert caught.value.code == "session_exists", f"the code of the Conflict is {caught.value.code}"
        compare(before, await all_seen(store, ["s"]), "the refused create")

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
        assert (await record_of(store)).owner == made[0], "another one's session was kept"

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
            assert (await record_of(store, name)).title == name, f"{name} is another's session"
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

"""Stores that break one rule each: the suite notices every one of them, and by the test that states the rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MethodType

import anyio
import anyio.lowlevel
import pytest

from portico.core.errors import Conflict, InvalidRequest, NotFound, SequenceConflict
from portico.core.events import Event
from portico.core.state import State
from portico.core.store import READ_BYTES, EventStore, SessionRecord, TurnSpan
from portico.plugins.memory_store.store import MemoryStore, _encode_cursor, _History
from portico.testing.store import MIB, StoreConformance

pytestmark = pytest.mark.anyio

Events = Sequence[Event]
Record = SessionRecord | None
Text = str | None
Page = tuple[list[SessionRecord], Text]


class Good(MemoryStore):
    """Breaks nothing."""

    def reopened(self) -> Good:
        store = type(self)()
        store._sessions = self._sessions
        return store


class Suite(StoreConformance):
    def __init__(self, variant: type[Good]) -> None:
        self._variant = variant
        self._store: Good | None = None

    def create(self, folder: Path) -> EventStore:
        self._store = self._variant() if self._store is None else self._store.reopened()
        return self._store


RULES = sorted(name for name in dir(StoreConformance) if name.startswith("test_"))


# Events.


class FindsTheLastAtZero(Good):
    async def event(self, session_id: str, seq: int) -> Event | None:
        if seq == 0 and session_id in self._sessions:
            return self._sessions[session_id].events[-1]
        return await super().event(session_id, seq)


class ReadsTwoForOne(Good):
    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Events:
        return await super().read(session_id, after, max(limit, 2), max_bytes)


class ReadsWithoutABound(Good):
    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Events:
        return await super().read(session_id, after, limit, 2**63)


class ReadsNothingThatIsTooLarge(Good):
    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Events:
        found = await super().read(session_id, after, limit, max_bytes)
        return found if sum(len(event.data) for event in found) <= max_bytes else ()


class EncodesAnew(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        await super().append(session_id, expected_seq, [self._anew(event) for event in events], record)

    def _anew(self, event: Event) -> Event:
        with suppress(ValueError):
            return replace(event, data=json.dumps(json.loads(event.data), separators=(",", ":")).encode())
        return event


class GivesViews(Good):
    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Events:
        found = await super().read(session_id, after, limit, max_bytes)
        return [replace(event, data=memoryview(event.data)) for event in found]  # type: ignore[arg-type]


class CutsLargeEvents(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        cut = [replace(event, data=event.data[:MIB]) for event in events]
        await super().append(session_id, expected_seq, cut, record)


class TakesSoManyEvents(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        await super().append(session_id, expected_seq, events[:2048], record)


# Fencing.


class FencesEventsOnly(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        try:
            await super().append(session_id, expected_seq, events, record)
        except SequenceConflict:
            if events:
                raise


class LeavesTurnsOfTheRefused(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        try:
            await super().append(session_id, expected_seq, events, record)
        except SequenceConflict:
            for event in events:
                if event.turn_id is not None:
                    span = TurnSpan(event.turn_id, event.seq, None)
                    self._sessions[session_id].turns.setdefault(event.turn_id, span)
            raise


class LeavesRecordsOfTheRefused(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        try:
            await super().append(session_id, expected_seq, events, record)
        except SequenceConflict:
            history = self._sessions[session_id]
            history.record = replace(record or history.record, last_seq=len(history.events))
            raise


class MakesSessionsOnTheWay(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        if record is not None:
            self._sessions.setdefault(session_id, _History(record))
        await super().append(session_id, expected_seq, events, record)


class LooksThenAppends(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        if (history := self._sessions.get(session_id)) and len(history.events) == expected_seq:
            await anyio.lowlevel.checkpoint()
            expected_seq = len(history.events)
        await super().append(session_id, expected_seq, events, record)


class KnowsOneSessionAtATime(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        self._session_id = session_id
        await anyio.lowlevel.checkpoint()
        await super().append(self._session_id, expected_seq, events, record)


class UndoesByHalves(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        await super().append(session_id, expected_seq, events, record)
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self._sessions[session_id].events.pop()
            raise


class AppendsOneByOne(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        with anyio.CancelScope(shield=True):
            for seq, event in enumerate(events, expected_seq):
                await super().append(session_id, seq, [event])
                await anyio.lowlevel.checkpoint()
            await super().append(session_id, expected_seq + len(events), [], record)


# Records.


class RoundsMoney(Good):
    async def get(self, session_id: str) -> Record:
        found = await super().get(session_id)
        return found and replace(found, cost_usd=round(found.cost_usd, 6))


class GivesStatesAsText(Good):
    async def get(self, session_id: str) -> Record:
        found = await super().get(session_id)
        return found and replace(found, state=found.state.value)  # type: ignore[arg-type]


class DropsTheRecordWithoutEvents(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        await super().append(session_id, expected_seq, events, record if events else None)


class GoesBackToTheFirstRecord(Good):
    def __init__(self) -> None:
        super().__init__()
        self._first: dict[str, SessionRecord] = {}

    async def create(self, record: SessionRecord) -> None:
        await super().create(record)
        self._first[record.session_id] = record

    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        await super().append(session_id, expected_seq, events, record or self._first.get(session_id))


class ListsOldEnds(Good):
    async def list(self, *, owner: Text, state: Text, limit: int, cursor: Text) -> Page:
        page, cursor = await super().list(owner=owner, state=state, limit=limit, cursor=cursor)
        return [replace(record, last_seq=0) for record in page], cursor


class ConflictsWithoutACode(Good):
    async def create(self, record: SessionRecord) -> None:
        try:
            await super().create(record)
        except Conflict as error:
            raise Conflict(error.detail) from error


class LooksThenCreates(Good):
    async def create(self, record: SessionRecord) -> None:
        if record.session_id not in self._sessions:
            await anyio.lowlevel.checkpoint()
            self._sessions.pop(record.session_id, None)
        await super().create(record)


class DeletesOnlyWhatIsThere(Good):
    async def delete(self, session_id: str) -> None:
        if session_id not in self._sessions:
            raise NotFound(f"there is no session {session_id!r}")
        await super().delete(session_id)


class HangsOverTheUnknown(Good):
    async def turn(self, session_id: str, turn_id: str) -> TurnSpan | None:
        if session_id not in self._sessions:
            await anyio.sleep_forever()
        return await super().turn(session_id, turn_id)


class KnowsNoCase(Good):
    async def turn(self, session_id: str, turn_id: str) -> TurnSpan | None:
        exact = await super().turn(session_id, turn_id)
        return exact or await super().turn(session_id, turn_id.swapcase())


# Turns.


class EndsOnlyWhatItSawBegin(Good):
    async def append(self, session_id: str, expected_seq: int, events: Events, record: Record = None) -> None:
        known = set(self._sessions[session_id].turns) if session_id in self._sessions else set()
        await super().append(session_id, expected_seq, events, record)
        for turn_id, span in self._sessions[session_id].turns.items():
            if turn_id not in known and span.first_seq == span.last_seq:
                self._sessions[session_id].turns[turn_id] = replace(span, last_seq=None)


class ForgetsTurnsOfTheClosed(Good):
    async def unfinished(self) -> Sequence[tuple[str, str]]:
        found = await super().unfinished()
        return [pair for pair in found if self._sessions[pair[0]].record.state is not State.CLOSED]


class SortsTurnsByName(Good):
    async def unfinished(self) -> Sequence[tuple[str, str]]:
        return sorted(await super().unfinished())


# Pages.


class TurnsPagesRound(Good):
    async def list(self, *, owner: Text, state: Text, limit: int, cursor: Text) -> Page:
        page, cursor = await super().list(owner=owner, state=state, limit=limit, cursor=cursor)
        return page[::-1], cursor


class CountsPages(Good):
    async def list(self, *, owner: Text, state: Text, limit: int, cursor: Text) -> Page:
        if cursor is not None and not cursor.isdecimal():
            raise InvalidRequest("no number", code="invalid_cursor")
        start = int(cursor or 0)
        every, _ = await super().list(owner=owner, state=state, limit=len(self._sessions), cursor=None)
        end = start + limit
        return every[start:end], f"{end}" if end < len(every) else None


class PromisesMoreThanThereIs(Good):
    async def list(self, *, owner: Text, state: Text, limit: int, cursor: Text) -> Page:
        page, cursor = await super().list(owner=owner, state=state, limit=limit, cursor=cursor)
        return page, _encode_cursor(page[-1]) if len(page) == limit else None


class SeesAllOwnersInAState(Good):
    async def list(self, *, owner: Text, state: Text, limit: int, cursor: Text) -> Page:
        return await super().list(owner=owner if state is None else None, state=state, limit=limit, cursor=cursor)


class TakesAnyCursor(Good):
    async def list(self, *, owner: Text, state: Text, limit: int, cursor: Text) -> Page:
        try:
            return await super().list(owner=owner, state=state, limit=limit, cursor=cursor)
        except InvalidRequest:
            return await super().list(owner=owner, state=state, limit=limit, cursor=None)


class StumblesOverCursors(Good):
    async def list(self, *, owner: Text, state: Text, limit: int, cursor: Text) -> Page:
        try:
            return await super().list(owner=owner, state=state, limit=limit, cursor=cursor)
        except InvalidRequest as error:
            raise ValueError("Incorrect padding") from error


# Deleting.


class Remembers(Good):
    def __init__(self) -> None:
        super().__init__()
        self.gone: dict[str, _History] = {}

    async def delete(self, session_id: str) -> None:
        if session_id in self._sessions:
            self.gone[session_id] = self._sessions[session_id]
        await super().delete(session_id)


class KnowsTurnsOfTheDeleted(Remembers):
    async def turn(self, session_id: str, turn_id: str) -> TurnSpan | None:
        if session_id in self._sessions or session_id not in self.gone:
            return await super().turn(session_id, turn_id)
        return self.gone[session_id].turns.get(turn_id)


class GivesTurnsToTheNext(Remembers):
    async def create(self, record: SessionRecord) -> None:
        await super().create(record)
        if record.session_id in self.gone:
            self._sessions[record.session_id].turns |= self.gone[record.session_id].turns


class DeletesTurnsOfThatName(Remembers):
    async def delete(self, session_id: str) -> None:
        await super().delete(session_id)
        for history in self._sessions.values():
            for turn_id in self.gone[session_id].turns if session_id in self.gone else ():
                history.turns.pop(turn_id, None)


# Housekeeping, and the end.


class TidiesTwiceTooMuch(Good):
    tidied = False

    async def tidy(self) -> None:
        if self.tidied:
            for history in self._sessions.values():
                del history.events[:1]
        self.tidied = True


class HidesWhatItTidies(Good):
    tidying = False

    async def tidy(self) -> None:
        self.tidying = True
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        self.tidying = False

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Events:
        return () if self.tidying else await super().read(session_id, after, limit, max_bytes)


class LosesTheEnd(Good):
    def reopened(self) -> Good:
        for history in self._sessions.values():
            del history.events[-1:]
        return super().reopened()


class BringsBackTheDeleted(Remembers):
    def reopened(self) -> Good:
        self._sessions |= self.gone
        return super().reopened()


BROKEN: dict[type[Good], set[str]] = {
    FindsTheLastAtZero: {"test_events_are_read_in_order"},
    ReadsTwoForOne: {"test_a_read_goes_on_behind_after"},
    ReadsWithoutABound: {"test_a_read_is_bounded_in_bytes"},
    ReadsNothingThatIsTooLarge: {"test_a_read_is_bounded_in_bytes"},
    EncodesAnew: {"test_the_bytes_of_an_event_come_back_unchanged"},
    GivesViews: {"test_the_bytes_of_an_event_come_back_unchanged"},
    CutsLargeEvents: {"test_large_events_come_back_whole"},
    TakesSoManyEvents: {"test_many_events_go_into_one_append"},
    FencesEventsOnly: {"test_an_append_behind_another_end_is_refused"},
    LeavesTurnsOfTheRefused: {"test_what_was_refused_left_nothing"},
    LeavesRecordsOfTheRefused: {
        "test_what_was_refused_left_nothing",
        "test_of_many_who_append_at_once_one_wins",
    },
    MakesSessionsOnTheWay: {"test_an_append_to_no_session_is_refused"},
    LooksThenAppends: {"test_of_many_who_append_at_once_one_wins"},
    KnowsOneSessionAtATime: {"test_sessions_that_append_at_once_do_not_mix"},
    UndoesByHalves: {"test_a_cancelled_append_is_all_or_nothing"},
    AppendsOneByOne: {"test_nobody_reads_half_an_append"},
    RoundsMoney: {"test_a_record_comes_back_whole"},
    GivesStatesAsText: {"test_every_state_comes_back"},
    DropsTheRecordWithoutEvents: {"test_a_record_stays_until_another_is_given", "test_a_record_comes_back_whole"},
    GoesBackToTheFirstRecord: {"test_a_record_stays_until_another_is_given"},
    ListsOldEnds: {"test_a_record_tells_the_end_of_the_history"},
    ConflictsWithoutACode: {"test_an_id_is_taken_once"},
    LooksThenCreates: {"test_of_many_who_create_at_once_one_wins"},
    DeletesOnlyWhatIsThere: {"test_what_is_not_there_is_none"},
    HangsOverTheUnknown: {"test_what_is_not_there_is_none", "test_a_delete_forgets_everything"},
    KnowsNoCase: {"test_ids_are_exact"},
    EndsOnlyWhatItSawBegin: {"test_a_turn_spans_from_its_first_event_to_its_complete"},
    ForgetsTurnsOfTheClosed: {"test_turns_without_a_complete_are_unfinished"},
    SortsTurnsByName: {"test_unfinished_turns_come_oldest_first"},
    TurnsPagesRound: {"test_pages_are_newest_first"},
    CountsPages: {"test_pages_are_whole_while_sessions_come_and_go"},
    PromisesMoreThanThereIs: {"test_the_last_page_has_no_cursor"},
    SeesAllOwnersInAState: {"test_a_page_is_of_one_owner_or_state"},
    TakesAnyCursor: {"test_a_cursor_of_somebody_else_is_refused"},
    StumblesOverCursors: {"test_a_cursor_of_somebody_else_is_refused"},
    KnowsTurnsOfTheDeleted: {"test_a_delete_forgets_everything"},
    GivesTurnsToTheNext: {"test_a_deleted_id_is_free_again"},
    DeletesTurnsOfThatName: {"test_a_delete_leaves_all_others_alone"},
    TidiesTwiceTooMuch: {"test_tidy_changes_nothing_that_readers_see"},
    HidesWhatItTidies: {"test_who_reads_and_appends_is_not_disturbed_by_tidy"},
    LosesTheEnd: {"test_all_is_there_when_it_is_opened_again"},
    BringsBackTheDeleted: {"test_what_was_deleted_does_not_come_back"},
}


async def noticed(variant: type[Good], rule: str, folder: Path) -> str | None:
    """Return the failure of the test that states ``rule``; None if it passes."""
    suite = Suite(variant)
    if variant is HangsOverTheUnknown:
        suite.call_seconds = 0.05
    test: MethodType = getattr(suite, rule)
    try:
        if "store" in test.__code__.co_varnames[: test.__code__.co_argcount]:
            async with suite.opened(folder) as store:
                await test(store)
        else:
            await test(folder)
    except (AssertionError, pytest.fail.Exception) as failure:
        return str(failure)
    except BaseExceptionGroup as failures:
        _, others = failures.split((AssertionError, pytest.fail.Exception))
        if others is not None:
            raise
        return str(failures.exceptions[0])
    return None


@pytest.mark.parametrize("variant", BROKEN, ids=lambda variant: variant.__name__)
async def test_a_broken_store_fails_exactly_the_rule_that_it_breaks(variant: type[Good], tmp_path: Path) -> None:
    said = {rule: await noticed(variant, rule, tmp_path) for rule in RULES}
    failed = {rule for rule, text in said.items() if text is not None}
    assert failed == BROKEN[variant]
    assert all(said[rule] for rule in failed)  # and in words


@pytest.mark.parametrize("rule", RULES)
async def test_no_rule_is_without_its_proof(rule: str, tmp_path: Path) -> None:
    assert rule in set.union(*BROKEN.values())
    assert await noticed(Good, rule, tmp_path) is None
    assert (getattr(StoreConformance, rule).__doc__ or "").endswith("."), "its docstring states the rule"

"""The recovery of sessions and turns that the previous server process left open."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

from portico.core.accounts import Accounts
from portico.core.background_work import lost_tasks
from portico.core.events import Draft, ErrorEvent, EventBody, PermissionResolved, SessionChange, unused, with_usage
from portico.core.feed import Feed
from portico.core.life import Life
from portico.core.settling import unsettled
from portico.core.state import OPEN, State
from portico.core.store import EventStore, SessionRecord

PAGE = 500

TAIL = 500
"""The last events of a turn that are searched for a message that was cut off: its last part is among the very last."""


async def recover(store: EventStore, accounts: Accounts) -> AsyncIterator[SessionRecord]:
    """End the turns that were cut off, and yield the open sessions, which have no process now."""
    unfinished: dict[str, list[str]] = {}
    for session_id, turn_id in await store.unfinished():
        unfinished.setdefault(session_id, []).append(turn_id)
    # The hibernated first: all others become hibernated, and would be found again.
    for state in (State.HIBERNATED, *(state for state in OPEN if state is not State.HIBERNATED)):
        for record in await _all(store, state):
            yield await _settle(store, accounts, record, unfinished.pop(record.session_id, []))
    for session_id, turns in unfinished.items():  # of sessions that are not open: a stop came between two writes
        if (found := await store.get(session_id)) is not None:
            await _settle(store, accounts, found, turns)


async def _all(store: EventStore, state: State) -> list[SessionRecord]:
    found: list[SessionRecord] = []
    cursor: str | None = None
    while True:
        page, cursor = await store.list(owner=None, state=state, limit=PAGE, cursor=cursor)
        found += page
        if cursor is None:
            return found


async def _settle(store: EventStore, accounts: Accounts, record: SessionRecord, turns: list[str]) -> SessionRecord:
    drafts: list[Draft] = []
    running = turns[0] if turns and record.state in (State.RUNNING, State.WAITING) else None
    for turn_id in turns:
        if record.state is State.WAITING:
            drafts += await _withdrawn(store, record, turn_id)
        drafts += await _taken_back(store, record, turn_id)
        text = "the server was stopped before this turn was over"
        drafts.append(Draft(ErrorEvent(type="error", error=text, code="server_restarted"), turn_id))
        used = accounts.left(record.agent_id, turn_id)
        complete = unused("error", known=turn_id != running)
        if used:
            complete = with_usage(complete, used)
        record = record.counting(complete)
        drafts.append(Draft(complete, turn_id))
    drafts += map(Draft, lost_tasks(record.tasks, "server_restarted"))
    record = replace(record, tasks=())
    if record.state in OPEN and record.state is not State.HIBERNATED:
        record = replace(record, state=State.HIBERNATED)
        drafts.append(Draft(SessionChange(type="session", state=State.HIBERNATED, reason="server_restarted")))
    if drafts:
        feed = Feed(Life(record.session_id, store), record.last_seq)
        await feed.append(drafts, record)
        record = replace(record, last_seq=feed.last_seq)
    return record


async def _taken_back(store: EventStore, record: SessionRecord, turn_id: str) -> list[Draft]:
    """Return the events that take back what was streamed of a message that was cut off."""
    after = max(0, record.last_seq - TAIL)
    told: list[EventBody] = []
    while events := await store.read(record.session_id, after, TAIL):
        told += [json.loads(event.data) for event in events if event.turn_id == turn_id]
        after = events[-1].seq
    return [Draft(body, turn_id) for body in unsettled(told)]


async def _withdrawn(store: EventStore, record: SessionRecord, turn_id: str) -> list[Draft]:
    """Return the events that resolve the permission requests for which the turn waited."""
    span = await store.turn(record.session_id, turn_id)
    after = span.first_seq if span is not None else record.last_seq
    open_requests: dict[str, None] = {}
    while events := await store.read(record.session_id, after, PAGE):
        for event in events:
            if event.turn_id == turn_id and event.type == "permission_request":
                open_requests[json.loads(event.data)["request_id"]] = None
            elif event.turn_id == turn_id and event.type == "permission_resolved":
                open_requests.pop(json.loads(event.data)["request_id"], None)
        after = events[-1].seq
    return [
        Draft(
            PermissionResolved(
                type="permission_resolved", request_id=request_id, behavior="deny", reason="agent_exited"
            ),
            turn_id,
        )
        for request_id in open_requests
    ]

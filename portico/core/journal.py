"""The record of a session and its history, which change together."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import anyio

from portico.core.agent import Suggestion
from portico.core.clock import rfc3339
from portico.core.errors import StoreFailed
from portico.core.events import Complete, Content, Draft, EventBody, Query, SessionChange
from portico.core.feed import Feed
from portico.core.permissions import Permissions
from portico.core.requests import OF_THE_RECORD, SessionChanges, rules_change
from portico.core.state import State, follow
from portico.core.store import SessionRecord
from portico.core.wakeup import Broadcast

RETRY_SECONDS = 1.0
"""The pause between two tries to write the end of a turn to a store that fails."""

log = logging.getLogger("portico.session")


class Journal:
    """The writer of one session. ``record`` is the current record; a change that the store rejects is undone in it.

    ``trouble`` is the reason why a write that must succeed has not succeeded yet; ``news`` reports each failed try.
    """

    def __init__(self, record: SessionRecord, feed: Feed, permissions: Permissions, news: Broadcast) -> None:
        self.record = record
        self.feed = feed
        self.trouble: str | None = None
        self._permissions = permissions
        self._news = news
        self._model_untold = False  # the agent has said which its own model is

    async def write(
        self,
        bodies: Sequence[EventBody],
        *,
        turn_id: str | None = None,
        state: State | None = None,
        reason: str | None = None,
    ) -> None:
        """Add events and, if ``state`` differs from the current one, the change of state after them."""
        drafts = [Draft(body, None if body["type"] == "session" else turn_id) for body in bodies]
        record, before = None, self.record.state
        if any(body["type"] in ("complete", "query", "session", "task", "schedule") for body in bodies):
            record = self.record
        if state is not None and state is not self.record.state:
            record = self.record = replace(self.record, state=follow(before, state))
            change = SessionChange(type="session", state=state)
            if reason is not None:
                change["reason"] = reason
            if self._model_untold:
                change = {**change, "model": record.options.model, "reason": reason or "agent"}
            drafts.append(Draft(change))
        if not drafts:
            return
        try:
            events = await self.feed.append(drafts, record)
        except StoreFailed:
            self.record = replace(self.record, state=before)  # nobody has seen the change
            raise
        if before is not self.record.state:
            self._model_untold = False
        for body, event in zip(bodies, events, strict=False):
            if body["type"] == "permission_request":
                self._permissions.stored(body["request_id"], event)

    async def persist(self, write: Callable[..., Awaitable[None]], *arguments: Any, **options: Any) -> None:
        """Call ``write`` until it succeeds, however long the store takes to recover. Meanwhile `trouble` says why."""
        while True:
            try:
                await write(*arguments, **options)
                self.trouble = None
                return
            except StoreFailed as failure:
                if self.trouble is None:
                    log.error("session %s: %s", self.record.session_id, failure.detail)
                self.trouble = failure.detail
                self._news.tell()
                await anyio.sleep(RETRY_SECONDS)

    async def write_query(self, turn_id: str, query: Query, content: Sequence[bytes] | None) -> int:
        """Record that a turn was accepted, and return the ``seq`` of that event. ``content`` is its JSON, if known."""
        self.record = replace(self.record, turns=self.record.turns + 1, last_active_at=rfc3339())
        try:
            (event,) = await self.feed.append([Draft(query, turn_id, content)], self.record)
        except Exception:
            self.record = replace(self.record, turns=self.record.turns - 1)
            raise
        return event.seq

    async def write_own_query(self, turn_id: str, content: Content) -> None:
        """Record that the agent has begun a turn by itself, however long the store takes to recover."""
        self.record = replace(self.record, turns=self.record.turns + 1)
        query = Query(type="query", content=content, principal=None)
        await self.persist(self.write, [query], turn_id=turn_id)

    def count(self, complete: Complete) -> None:
        """Add the usage and cost of a turn to the record. Add to ``complete`` what the agent has left out."""
        complete.setdefault("usage_by_model", {})
        complete.setdefault("cost_basis", "reported")
        self.record = replace(self.record.counting(complete), last_active_at=rfc3339())

    async def change(self, changes: SessionChanges) -> None:
        """Change the record, one call at a time."""
        before = self.record
        self.record = changes.apply(before)
        try:
            await self.feed.append(changes.drafts(before, self.record), self.record)
        except StoreFailed:
            self.record = replace(self.record, **{name: getattr(before, name) for name in (*OF_THE_RECORD, "options")})
            raise

    def set_mode(self, mode: str) -> SessionChange:
        """Put the agent's new permission mode into the record, and return the event that reports it."""
        self.record = replace(self.record, options=self.record.options.with_changes(permission_mode=mode))
        return self.mode_change("agent")

    def set_model(self, model: str) -> Sequence[SessionChange]:
        """Put the agent's new model into the record, and return the event that reports it.

        A model that nobody has chosen is reported with the next change of state: it is known now, but has not changed.
        """
        self._model_untold = self.record.options.model is None
        self.record = replace(self.record, options=self.record.options.with_changes(model=model))
        change = SessionChange(type="session", state=self.record.state, reason="agent", model=model)
        return [] if self._model_untold else [change]

    def set_rules(self, rules: Sequence[Suggestion], reason: str) -> SessionChange:
        """Put the permission rules into the record, and return the event that reports them."""
        self.record = replace(self.record, options=self.record.options.with_changes(permission_rules=tuple(rules)))
        return rules_change(self.record, reason)

    def drop_rules(self, ids: Collection[str], reason: str) -> SessionChange:
        """Take permission rules out of the record, and return the event that reports it."""
        rules = self.record.options.permission_rules
        return self.set_rules([rule for rule in rules if rule["id"] not in ids], reason)

    def mode_change(self, reason: str) -> SessionChange:
        """Return the event that reports the permission mode, and the reason for its change."""
        mode = self.record.options.permission_mode
        return SessionChange(type="session", state=self.record.state, reason=reason, permission_mode=mode)

    def waits_without_process(self) -> SessionChange:
        """Return the event that reports that the agent's process was given up while a turn waits for a person."""
        return SessionChange(type="session", state=self.record.state, reason="process_given_up")

    def fail(self) -> None:
        """End the history after a bug of ours; nothing more is written."""
        self.record = replace(self.record, state=State.FAILED)
        self.feed.end()

"""Counting what goes into a store: everything that happens goes there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, cast

from prometheus_client import Counter, Histogram

from portico.core.events import Event
from portico.core.store import EventStore, SessionRecord
from portico.metrics.metrics import OTHER, SECONDS, Metrics

_AGENTS = ("end_turn", "max_tokens", "max_turns", "refusal", "stop_sequence")
_OURS = ("error", "interrupted", "steered", "timeout", "withdrawn")
STOP_REASONS = frozenset(_AGENTS + _OURS)
"""The stop reasons that are counted by name. Any others come from a driver, which may be anybody's."""


def metered(store: EventStore, metrics: Metrics) -> EventStore:
    """Return the given store with counting added."""
    return cast(EventStore, _Metered(store, metrics))


class _Metered:
    def __init__(self, store: EventStore, metrics: Metrics) -> None:
        self._store = store
        self._events = Counter("portico_events_appended_total", "Events stored, by type.", ("type",), registry=None)
        self._started = Counter("portico_turns_started_total", "Turns taken in.", registry=None)
        self._ended = Counter("portico_turns_ended_total", "Turns that are over.", ("stop_reason",), registry=None)
        self._seconds = Histogram(
            "portico_store_append_seconds",
            "How long the store took for what was appended at once.",
            buckets=SECONDS,
            registry=None,
        )
        self._failed = Counter(
            "portico_store_append_failures_total", "Appends that the store did not take.", registry=None
        )
        metrics.add(self._events, self._started, self._ended, self._seconds, self._failed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        began = time.perf_counter()
        try:
            await self._store.append(session_id, expected_seq, events, record)
        except Exception:
            self._failed.inc()
            raise
        self._seconds.observe(time.perf_counter() - began)
        for event in events:
            self._events.labels(event.type).inc()
            if event.type == "query":
                self._started.inc()
            elif event.type == "complete":
                reason = json.loads(event.data)["stop_reason"]
                self._ended.labels(reason if reason in STOP_REASONS else OTHER).inc()

"""Counting what goes into a store: everything that happens goes there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, cast

from prometheus_client import Counter, Histogram

from portico.core.events import Event
from portico.core.prices import LIST_PRICES, PriceTable
from portico.core.store import EventStore, SessionRecord
from portico.core.usage import TOKENS
from portico.metrics.metrics import OTHER, SECONDS, Metrics

_AGENTS = ("end_turn", "max_tokens", "max_turns", "refusal", "stop_sequence")
_OURS = ("error", "interrupted", "steered", "timeout", "withdrawn")
STOP_REASONS = frozenset(_AGENTS + _OURS)
"""The stop reasons that are counted by name. Any others come from a driver, which may be anybody's."""


def metered(store: EventStore, metrics: Metrics, prices: PriceTable = LIST_PRICES) -> EventStore:
    """Return the given store with counting added. Models are counted by name if ``prices`` knows them."""
    return cast(EventStore, _Metered(store, metrics, prices))


class _Metered:
    def __init__(self, store: EventStore, metrics: Metrics, prices: PriceTable) -> None:
        self._store = store
        self._prices = prices
        self._tokens = Counter(
            "portico_tokens_total", "Tokens of turns that are over, by kind.", ("model", "kind"), registry=None
        )
        self._cost = Counter(
            "portico_cost_usd_total", "US dollars that turns have cost.", ("model", "basis"), registry=None
        )
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
        metrics.add(self._events, self._started, self._ended, self._seconds, self._failed, self._tokens, self._cost)

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
                self._end(json.loads(event.data))

    def _end(self, complete: dict[str, Any]) -> None:
        reason = complete["stop_reason"]
        self._ended.labels(reason if reason in STOP_REASONS else OTHER).inc()
        for model, usage in complete.get("usage_by_model", {}).items():
            label = self._prices.name(model) or OTHER
            self._cost.labels(label, usage["cost_basis"]).inc(usage["cost_usd"])
            for kind in TOKENS:
                self._tokens.labels(label, kind.removesuffix("_tokens")).inc(usage[kind])
        if not complete.get("usage_by_model") and complete["cost_usd"] > 0:  # a driver that names no models
            self._cost.labels(OTHER, "reported").inc(complete["cost_usd"])

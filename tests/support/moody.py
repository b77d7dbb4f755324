"""A store that takes its time, or fails, as it is told; what it says it has stored, it has."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from portico.core.errors import StoreFailed
from portico.core.events import Event
from portico.core.store import SessionRecord


class Moody:
    """Goes before a real store among the bases of a class."""

    delay = 0.0
    failing = False

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        await anyio.sleep(self.delay)
        if self.failing:
            raise StoreFailed("the disk is full", code="store_full")
        await super().append(session_id, expected_seq, events, record)  # type: ignore[misc]

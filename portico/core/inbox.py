"""The events of an agent that are not in the history yet: bounded in number, and taken all at once."""

from __future__ import annotations

from typing import Any

import anyio

from portico.core.events import AgentEvent

MAX_EVENTS = 512
MAX_BYTES = 1024 * 1024


def _weight(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(len(block.get("text") or "") if isinstance(block, dict) else 0 for block in content)
    return 0


class Inbox:
    """A bounded buffer: one task puts, another takes. A put waits while the buffer is full."""

    def __init__(self) -> None:
        self._events: list[AgentEvent] = []
        self._bytes = 0
        self._closed = False
        self._filled = anyio.Event()
        self._emptied = anyio.Event()

    async def put(self, event: AgentEvent) -> None:
        while self._events and (len(self._events) >= MAX_EVENTS or self._bytes >= MAX_BYTES):
            self._emptied = anyio.Event()
            await self._emptied.wait()
        self._events.append(event)
        self._bytes += _weight(event.get("content"))
        self._filled.set()

    def close(self) -> None:
        self._closed = True
        self._filled.set()

    async def take(self) -> list[AgentEvent]:
        """Wait for events and return all of them, at least one; none once the inbox is closed and drained."""
        if not self._events and not self._closed:
            self._filled = anyio.Event()
            await self._filled.wait()
        events, self._events, self._bytes = self._events, [], 0
        self._emptied.set()
        return events

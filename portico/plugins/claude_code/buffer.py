"""A buffer for what the CLI has said and nobody has taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeGuard

import anyio

from portico.core.agent import OwnTurn
from portico.core.errors import PorticoError
from portico.core.events import AgentEvent, Aside
from portico.core.schedule_event import Schedule
from portico.core.task_event import Task
from portico.plugins.claude_code.items import Done, Taken

TURN_BYTES = 4 * 1024 * 1024
"""Bytes of lines that may wait for the task that runs a turn. Above this the CLI is not read, and keeps the rest in its
own memory."""

IDLE_BYTES = 256 * 1024
"""Bytes of lines that are kept between turns, from subagents in the background. Older ones are dropped."""

Entry = AgentEvent | OwnTurn | Done | Taken


class _Kept(NamedTuple):
    entry: Entry
    size: int
    idle: bool


def is_work(entry: object) -> TypeGuard[Task | Schedule]:
    """Tell whether an entry is about a task or a schedule. None of these is ever dropped."""
    return isinstance(entry, dict) and entry.get("type") in ("task", "schedule")


def is_aside(entry: object) -> TypeGuard[Aside]:
    """Tell whether an entry is an event that counts also between turns."""
    if not isinstance(entry, dict):
        return False
    speech = entry.get("type") in ("message", "tool_use", "tool_result")
    return is_work(entry) or (speech and "parent_tool_use_id" in entry)


class EventBuffer:
    """The queue between the task that reads the CLI and the task that runs turns, bounded in bytes.

    An entry counts as the line that it came from, so the bound is `TURN_BYTES` and one line.
    """

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._bytes = self._idle_bytes = 0
        self._unlimited = 0
        self._end: PorticoError | None = None
        self._changed = anyio.Event()

    def put(self, entry: Entry, size: int, *, idle: bool) -> None:
        """Add an entry. An ``idle`` entry belongs to no turn, and may be dropped, unless it `is_work`."""
        idle = idle and not is_work(entry)
        self._kept.append(_Kept(entry, size, idle))
        self._bytes += size
        if idle:
            self._idle_bytes += size
            if self._idle_bytes > IDLE_BYTES:
                self._drop_idle()
        self._wake()

    async def wait_for_room(self) -> None:
        while self._bytes > TURN_BYTES and not self._unlimited:
            await self._changed.wait()

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Lift the limit inside the block: an answer of the CLI may stand behind entries that nobody takes."""
        self._unlimited += 1
        self._wake()
        try:
            yield
        finally:
            self._unlimited -= 1

    async def get(self) -> Entry:
        """Return the next entry. Once the buffer is closed and empty, raise the error that it was closed with."""
        while not self._kept:
            self._raise_end()
            await self._changed.wait()
        return self._pop().entry

    async def own_turn(self) -> OwnTurn | Aside:
        """Wait until there is an `OwnTurn`, and return it without removing it, or an `Aside` before that, and remove
        it. Raises as `get` does.
        """
        while True:
            for place, kept in enumerate(self._kept):
                if isinstance(kept.entry, OwnTurn):
                    return kept.entry
                if is_aside(kept.entry):
                    del self._kept[place]
                    self._forget(kept)
                    return kept.entry
            self._raise_end()
            await self._changed.wait()

    def discard_turn(self, uuid: str | None) -> None:
        """Drop all entries up to and including the end of the turn ``uuid``, but none that `is_work`."""
        tasks: list[_Kept] = []
        while self._kept:
            kept = self._kept.popleft()
            if is_work(kept.entry):
                tasks.append(kept)
                continue
            self._forget(kept)
            if isinstance(kept.entry, Done) and kept.entry.uuid == uuid:
                break
        self._kept.extendleft(reversed(tasks))

    def close(self, end: PorticoError) -> None:
        """Accept no more entries: once all are taken, ``end`` is raised."""
        self._end = end
        self._wake()

    def _pop(self) -> _Kept:
        kept = self._kept.popleft()
        self._forget(kept)
        return kept

    def _forget(self, kept: _Kept) -> None:
        self._bytes -= kept.size
        self._idle_bytes -= kept.size if kept.idle else 0
        self._wake()

    def _drop_idle(self) -> None:
        """Drop idle entries down to half of the limit, so that this seldom happens."""
        left: deque[_Kept] = deque()
        for kept in self._kept:
            if kept.idle and self._idle_bytes > IDLE_BYTES // 2:
                self._bytes -= kept.size
                self._idle_bytes -= kept.size
            else:
                left.append(kept)
        self._kept = left

    def _raise_end(self) -> None:
        if self._end is not None:
            raise self._end.with_traceback(None)  # it may be raised often, and its traceback would grow each time

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

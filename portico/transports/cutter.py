"""The work of cutting events, done once for all who want the same, and never for long at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

import anyio

from portico.core.events import Event
from portico.core.intake import Intake
from portico.transports.cutting import CutEvent

AROUND = len(b"data: \n")
"""The bytes around an event in its line of a stream. They count elsewhere too, so that it is cut the same way there."""
KEPT = 16
KEPT_BYTES = 256 * 1024
"""The number and the size of the cut events that are kept for others."""
AT_ONCE = 4
"""The most events that are cut at once, one of each session: the outline of one takes up to tens of megabytes."""


@dataclass(slots=True)
class _Shared:
    """A cut event; None while the first who wants it is at work."""

    working: anyio.Lock = field(default_factory=anyio.Lock)
    event: Event | None = None


class _Queue:
    """The turn of those who want an event of one session cut."""

    def __init__(self) -> None:
        self.turn = anyio.Lock()


class Cutter:
    """Cuts the large events of all streams of a server. Between two steps the event loop serves everybody else."""

    def __init__(self) -> None:
        self._turns = Intake()
        self._shared: OrderedDict[tuple[Hashable, int, int], _Shared] = OrderedDict()
        self._queues: WeakValueDictionary[Hashable, _Queue] = WeakValueDictionary()
        self._free = anyio.Semaphore(AT_ONCE)

    async def fitting(self, events: Sequence[Event], max_event: int, whose: Hashable = None) -> Sequence[Event]:
        """Return ``events``, with those cut whose line has more than ``max_event`` bytes: the same sequence if there
        are none.

        ``whose`` is equal for events of the same session alone, if it is known: then others who want the same need not
        wait again, and nobody waits for those of another session.
        """
        max_bytes = max_event - AROUND
        if all(len(event.data) <= max_bytes for event in events):
            return events
        return [event if len(event.data) <= max_bytes else await self._cut(event, max_bytes, whose) for event in events]

    async def fitted(self, data: bytes, max_bytes: int) -> bytes:
        """Return ``data``, the JSON of an event or a message, cut if it has more than ``max_bytes``."""
        if len(data) <= max_bytes:
            return data
        cut = CutEvent(data, max_bytes)
        await self._turns.do(cut.steps())
        return cut.data

    async def _cut(self, event: Event, max_bytes: int, whose: Hashable) -> Event:
        if whose is None or max_bytes > KEPT_BYTES:
            return await self._cut_in_turn(event, max_bytes, whose)
        shared = self._shared.setdefault((whose, event.seq, max_bytes), _Shared())
        while len(self._shared) > KEPT:
            self._shared.popitem(last=False)
        async with shared.working:
            if shared.event is None:
                shared.event = await self._cut_in_turn(event, max_bytes, whose)
            return shared.event

    async def _cut_in_turn(self, event: Event, max_bytes: int, whose: Hashable) -> Event:
        queue = self._queues.setdefault(whose, _Queue())
        async with queue.turn, self._free:
            return replace(event, data=await self.fitted(event.data, max_bytes))

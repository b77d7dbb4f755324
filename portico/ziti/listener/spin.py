"""Finds out that the library is busy with nothing."""

from __future__ import annotations

from collections import deque

IDLE_BYTES = 1024 * 1024
"""Who works for traffic moves far more than this with a second of a core: 15 MiB of bulk a second were measured."""
BUSY = 0.2
"""Of a core. Who spins on a busy machine gets no whole one; who works for traffic is told by `IDLE_BYTES`."""


class Spin:
    """Looks at what the process has done since its start: processor seconds, bytes carried, connections accepted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._past: deque[tuple[float, float, int, int]] = deque()

    def look(self, now: float, processor: float, carried: int, accepted: int) -> bool:
        """Whether for the last ``seconds`` it was busy, accepted nothing, and carried next to nothing."""
        past = self._past
        past.append((now, processor, carried, accepted))
        while len(past) > 1 and now - past[1][0] >= self._seconds:
            past.popleft()
        then, processor_then, carried_then, accepted_then = past[0]
        if now - then < self._seconds:
            return False
        spent = processor - processor_then
        # Less than before: a connection has closed, and what it had carried is not counted any more.
        idle = 0 <= carried - carried_then < IDLE_BYTES * spent and accepted == accepted_then
        return idle and spent > BUSY * (now - then)

"""Detection of a library that spins: it is busy, but does no work."""

from __future__ import annotations

from collections import deque

IDLE_BYTES = 1024 * 1024
"""Real traffic moves far more than this per second of a core: 15 MiB a second of bulk were measured."""
BUSY = 0.2
"""The share of a core. On a busy machine a spinning process gets no whole one; `IDLE_BYTES` excludes traffic."""


class Spin:
    """Compares the totals of the process since its start: processor seconds, bytes carried, connections accepted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._past: deque[tuple[float, float, int, int]] = deque()

    def look(self, now: float, processor: float, carried: int, accepted: int) -> bool:
        """Tell whether for the last ``seconds`` it was busy, accepted nothing, and carried next to nothing."""
        past = self._past
        past.append((now, processor, carried, accepted))
        while len(past) > 1 and now - past[1][0] >= self._seconds:
            past.popleft()
        then, processor_then, carried_then, accepted_then = past[0]
        if now - then < self._seconds:
            return False
        spent = processor - processor_then
        # The sum may shrink: the bytes of a connection no longer count once it has closed.
        idle = 0 <= carried - carried_then < IDLE_BYTES * spent and accepted == accepted_then
        return idle and spent > BUSY * (now - then)

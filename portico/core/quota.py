"""The quotas of each principal: open streams, over all transports of a server, and turns in a minute."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from portico.core.errors import Exhausted
from portico.core.principal import Principal

RETRY_SECONDS = 10
MINUTE = 60.0


class StreamQuota:
    """A limit on the open streams of each principal; with a ``limit`` of None there is none."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, principal: Principal) -> Iterator[None]:
        """Count one more stream of the principal inside the context. Raises `Exhausted` (``too_many_streams``)."""
        name = principal.name
        if self._limit is not None and self._open[name] >= self._limit:
            detail = f"you have {self._limit} streams open, which is the limit (max_streams_per_principal)"
            raise Exhausted(detail, code="too_many_streams", retry_after=RETRY_SECONDS)
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


class TurnRate:
    """A limit of ``limit`` turns of one principal in any minute; None means no limit.

    A principal without turns for a minute is forgotten, so that many principals don't take memory for long.
    """

    def __init__(self, limit: int | None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._now = now
        self._starts: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, name: str) -> None:
        """Count a turn of ``name``. Raises `Exhausted` (``too_many_turns``), and counts nothing then."""
        if self._limit is None:
            return
        now = self._now()
        while self._starts and (oldest := next(iter(self._starts.items())))[1][-1] <= now - MINUTE:
            del self._starts[oldest[0]]
        starts = self._starts.setdefault(name, deque())
        while starts and starts[0] <= now - MINUTE:
            starts.popleft()
        if len(starts) >= self._limit:
            raise Exhausted(
                f"{self._limit} turns were started in the last minute, which is the limit (max_turns_per_minute)",
                code="too_many_turns",
                retry_after=max(1, math.ceil(starts[0] + MINUTE - now)),
            )
        starts.append(now)
        self._starts.move_to_end(name)

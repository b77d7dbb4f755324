"""How many streams each principal may have open at once, over all transports of a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from portico.core.errors import Exhausted
from portico.core.principal import Principal

RETRY_SECONDS = 10


class StreamQuota:
    """``limit`` None: as many as they like."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, principal: Principal) -> Iterator[None]:
        """In here the principal has one more. Raises `Exhausted` (``too_many_streams``)."""
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

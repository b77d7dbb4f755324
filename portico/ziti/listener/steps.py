"""What calls into Ziti's library are under way, and which of them has hung."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    name: str
    service: str | None
    seconds: float
    deadline: float


class Steps:
    """A thread that hangs in C can't be stopped from within: another one has to look here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: set[Step] = set()

    @contextmanager
    def within(self, seconds: float, name: str, service: str | None = None) -> Iterator[None]:
        """What is done here counts as hung after so many seconds."""
        step = Step(name, service, seconds, time.monotonic() + seconds)
        with self._lock:
            self._current.add(step)
        try:
            yield
        finally:
            with self._lock:
                self._current.discard(step)

    def hung(self) -> Step | None:
        with self._lock:
            return next((step for step in self._current if step.deadline < time.monotonic()), None)

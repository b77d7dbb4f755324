"""The calls into Ziti's library that are under way, and the detection of one that hangs."""

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
    """The current calls. A thread that hangs in C can't notice it, so another thread has to look here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: set[Step] = set()

    @contextmanager
    def within(self, seconds: float, name: str, service: str | None = None) -> Iterator[None]:
        """Let the body count as hung after so many seconds."""
        step = Step(name, service, seconds, time.monotonic() + seconds)
        with self._lock:
            self._current.add(step)
        try:
            yield
        finally:
            with self._lock:
                self._current.discard(step)

    def take_hung(self) -> list[Step]:
        """Return the calls that count as hung since the last time."""
        with self._lock:
            hung = [step for step in self._current if step.deadline < time.monotonic()]
            self._current.difference_update(hung)
            return hung

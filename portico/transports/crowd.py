"""The limit on connections, and the choice of the one that makes room for another."""

from __future__ import annotations

import resource
from collections.abc import Sized
from typing import Protocol

UNLIMITED = 65536
"""The number that stands for "unlimited" in the kernel's limit."""
RESERVE = 64
PER_AGENT = 8
"""Descriptors that are not for connections: `RESERVE` for the server itself, `PER_AGENT` for each agent process."""
FEWEST = 32


def fitting(agents: int) -> int:
    """Return how many connections this process has descriptors for, beside so many agents."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = UNLIMITED if soft == resource.RLIM_INFINITY else soft
    return max(FEWEST, soft - RESERVE - PER_AGENT * agents)


class Idler(Protocol):
    def cut(self) -> None:
        """Close the connection now."""


class Crowd:
    """The connections of one server: at most ``limit``.

    Beyond that, a new connection replaces the one that has been idle longest, so that nobody can keep others out with
    idle connections. Only if all are at work is the new one refused. It gets that answer at once: waiting in the
    kernel's queue, a client, such as a health check, would learn nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: dict[Idler, None] = {}

    def idle(self, connection: Idler, idle: bool) -> None:
        """Note whether ``connection`` waits for a request of its client."""
        if not idle:
            self._idle.pop(connection, None)
        elif connection not in self._idle:
            self._idle[connection] = None

    def has_room(self, connections: Sized, further: int = 1) -> bool:
        """Tell whether there is room for ``further`` ones beside ``connections``; make room if possible."""
        if len(connections) + further <= self._limit:
            return True
        if not self._idle:
            return False
        longest = next(iter(self._idle))
        del self._idle[longest]
        longest.cut()
        return True

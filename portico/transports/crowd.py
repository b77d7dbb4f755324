"""How many connections there may be at once, and who gives way."""

from __future__ import annotations

import resource
from collections.abc import Sized
from typing import Protocol

UNLIMITED = 65536
"""What the kernel's "as many as you like" is taken for."""
RESERVE = 64
PER_AGENT = 8
"""Descriptors that are not for connections: of the server itself, and of each agent process."""
FEWEST = 32


def fitting(agents: int) -> int:
    """As many connections as this process may have descriptors for, beside so many agents."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = UNLIMITED if soft == resource.RLIM_INFINITY else soft
    return max(FEWEST, soft - RESERVE - PER_AGENT * agents)


class Idler(Protocol):
    def cut(self) -> None:
        """Close now."""


class Crowd:
    """The connections of one server: at most ``limit``.

    Who comes then takes the place of the one that has been silent longest, so that nobody can keep others out with
    connections on which nothing is asked. Only where all are at work is the new one refused: an answer at once, instead
    of a place in the kernel's queue, in which nobody, a health check included, would learn anything.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: dict[Idler, None] = {}

    def idle(self, connection: Idler, idle: bool) -> None:
        """Whether ``connection`` waits for its client to ask for something."""
        if not idle:
            self._idle.pop(connection, None)
        elif connection not in self._idle:
            self._idle[connection] = None

    def has_room(self, connections: Sized, further: int = 1) -> bool:
        """Whether there is room for ``further`` ones beside ``connections``; makes it where it can."""
        if len(connections) + further <= self._limit:
            return True
        if not self._idle:
            return False
        longest = next(iter(self._idle))
        del self._idle[longest]
        longest.cut()
        return True

"""The intake of messages: a limit on the bytes that the server holds for each principal, over all transports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import anyio
import anyio.lowlevel

from portico.core.errors import Exhausted

FREE_BYTES = 16 * 1024
"""The part of each message that is not counted, so that most messages count for nothing."""
BESIDE = 1024 * 1024
"""The room for other messages while one of the largest size arrives."""
LIMIT = 32 * 1024 * 1024 + BESIDE
RETRY_SECONDS = 2


class Intake:
    """A limit for each principal: at most ``limit`` bytes of messages that are not handled yet, beside `FREE_BYTES`
    of each."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._taken: Counter[str] = Counter()
        self._turn = anyio.Lock(fast_acquire=True)

    def open(self, name: str) -> Held:
        """Return the account for one connection of the principal ``name``, whose messages come one after another."""
        return Held(self, name)

    def take(self, name: str, count: int) -> None:
        """Count ``count`` bytes more. Raises `Exhausted` (``too_many_bodies``), and counts nothing then."""
        if self._taken[name] + count > self._limit:
            detail = f"you are sending more than {self._limit} bytes at once, over all your requests"
            raise Exhausted(detail, code="too_many_bodies", retry_after=RETRY_SECONDS)
        self._taken[name] += count

    def give_back(self, name: str, count: int) -> None:
        self._taken[name] -= count
        if not self._taken[name]:
            del self._taken[name]

    async def do(self, steps: Iterator[None]) -> None:
        """Do ``steps``, each of which takes a moment. Between two steps the event loop serves everybody else.

        Each round of the loop does one step, however many messages are in progress.
        """
        for _ in steps:
            async with self._turn:
                await anyio.lowlevel.checkpoint()


class Held:
    """The bytes held for a message. The caller must call `release`, whatever becomes of the message."""

    def __init__(self, intake: Intake, name: str) -> None:
        self._intake = intake
        self._name = name
        self._size = 0
        self._taken = 0

    def expect(self, count: int) -> None:
        """Make room for ``count`` bytes more before they arrive. Raises `Exhausted` (``too_many_bodies``)."""
        more = self._size + count - FREE_BYTES - self._taken
        if more > 0:
            self._intake.take(self._name, more)
            self._taken += more

    def grow(self, count: int) -> None:
        """Hold ``count`` bytes more. Raises `Exhausted` (``too_many_bodies``)."""
        self.expect(count)
        self._size += count

    def release(self) -> None:
        self._intake.give_back(self._name, self._taken)
        self._size = self._taken = 0

    async def do(self, steps: Iterator[None]) -> None:
        """Do as `Intake.do`."""
        await self._intake.do(steps)

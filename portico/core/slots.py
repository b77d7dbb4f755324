"""The processes that there may be at once, and who has them."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol

import anyio

from portico.core.errors import AgentUnavailable
from portico.core.wakeup import Wakeup


class Holder(Protocol):
    """Has a process that it can do without, and gives it back soon after it is asked to."""

    def give_up_process(self) -> None: ...


class _Waiter:
    def __init__(self) -> None:
        self.granted = anyio.Event()


class ProcessSlots:
    """At most ``limit`` processes. Who finds none free is served in the order of coming.

    A holder that is at rest is asked to give its process up when somebody waits, the one longest at rest first.
    """

    def __init__(self, limit: int) -> None:
        self.freed = Wakeup()
        """For the one who takes only what nobody waits for."""
        self.limit = limit
        self._free = limit
        self._waiters: deque[_Waiter] = deque()
        self._resting: OrderedDict[Holder, None] = OrderedDict()
        self._asked: set[Holder] = set()  # to give theirs up, and have not yet

    @property
    def free(self) -> bool:
        """Whether one could be had at once."""
        return self._free > 0

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiters)

    @property
    def taken(self) -> int:
        return self.limit - self._free

    def take_free(self) -> bool:
        """Take one if that keeps nobody waiting."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    async def take(self, seconds: float) -> None:
        """Wait for one, so long at most. Raises `AgentUnavailable` (``no_capacity``)."""
        if self.take_free():
            return
        waiter = _Waiter()
        self._waiters.append(waiter)
        self._ask()
        try:
            with anyio.fail_after(seconds):
                await waiter.granted.wait()
        except BaseException as error:
            if waiter.granted.is_set():
                self.give_back()
            else:
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                detail = f"all processes were busy for {seconds:g} seconds (max_processes, process_wait)"
                raise AgentUnavailable(detail, code="no_capacity") from None
            raise

    def give_back(self) -> None:
        """One process less; the first who waits gets its place."""
        if self._waiters:
            self._waiters.popleft().granted.set()
        else:
            self._free += 1
            self.freed.set()

    def rest(self, holder: Holder, *, first: bool = False) -> None:
        """From now on ``holder`` can do without its process; ``first``: before all others."""
        self._resting[holder] = None
        self._resting.move_to_end(holder, last=not first)
        self._ask()

    def stir(self, holder: Holder) -> None:
        """``holder`` needs its process again, even where it was asked for it: then somebody else is asked."""
        self._resting.pop(holder, None)
        if holder in self._asked:
            self._asked.discard(holder)
            self._ask()

    def leave(self, holder: Holder) -> None:
        """``holder`` is about to give its process back: nobody need ask it."""
        self._resting.pop(holder, None)

    def gone(self, holder: Holder) -> None:
        """``holder`` has given its process back."""
        self._asked.discard(holder)

    def _ask(self) -> None:
        while self._resting and len(self._asked) < len(self._waiters):
            holder, _ = self._resting.popitem(last=False)
            self._asked.add(holder)
            holder.give_up_process()

"""The slots that limit the number of processes, and their holders."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol

import anyio

from portico.core.errors import AgentUnavailable
from portico.core.wakeup import Wakeup

SPARED = 0.5
"""The part of a caller's time after which it also gets processes that work in the background."""


class Holder(Protocol):
    """A holder of a process slot, which gives it back soon after it is asked to, unless it needs the process again."""

    def give_up_process(self) -> None: ...


class _Waiter:
    def __init__(self) -> None:
        self.granted = anyio.Event()


class ProcessSlots:
    """Slots for at most ``limit`` processes. Callers that find none free are served in the order of arrival.

    When somebody waits, holders at rest are asked to give up their slots, the one longest at rest first.
    """

    def __init__(self, limit: int) -> None:
        self.freed = Wakeup()
        """A wakeup for the one task that takes only slots for which nobody waits."""
        self.limit = limit
        self._free = limit
        self._waiters: deque[_Waiter] = deque()
        self._resting: OrderedDict[Holder, None] = OrderedDict()
        self._spared: OrderedDict[Holder, None] = OrderedDict()  # resting, but their processes work in the background
        self._pressing = 0  # waiters that have waited for so long that these are asked too
        self._asked: set[Holder] = set()  # to give up their slots, but have not done so yet

    @property
    def free(self) -> bool:
        """Tell whether a slot is free."""
        return self._free > 0

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a slot."""
        return len(self._waiters)

    @property
    def taken(self) -> int:
        return self.limit - self._free

    def take_free(self) -> bool:
        """Take a slot if one is free, which means that nobody waits for it."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    async def take(self, seconds: float) -> None:
        """Wait for a slot, for at most so many seconds. Raises `AgentUnavailable` (``no_capacity``)."""
        if self.take_free():
            return
        waiter = _Waiter()
        self._waiters.append(waiter)
        self._ask()
        pressing = False
        try:
            with anyio.fail_after(seconds):
                with anyio.move_on_after(seconds * SPARED):
                    await waiter.granted.wait()
                if not waiter.granted.is_set():
                    pressing = True
                    self._pressing += 1
                    self._ask()
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
        finally:
            self._pressing -= pressing

    def give_back(self) -> None:
        """Return a slot; the first caller that waits gets it."""
        if self._waiters:
            self._waiters.popleft().granted.set()
        else:
            self._free += 1
            self.freed.set()

    def rest(self, holder: Holder, *, first: bool = False, spared: bool = False) -> None:
        """Note that ``holder`` can do without its process; with ``first``, it is the first to be asked for it.

        A ``spared`` holder would lose work: it is asked only for a caller that has waited for half of its time.
        """
        self.leave(holder)
        resting = self._spared if spared else self._resting
        resting[holder] = None
        resting.move_to_end(holder, last=not first)
        self._ask()

    def stir(self, holder: Holder) -> None:
        """Note that ``holder`` needs its process again; if it was asked to give it up, ask another holder instead."""
        self.leave(holder)
        if holder in self._asked:
            self._asked.discard(holder)
            self._ask()

    def leave(self, holder: Holder) -> None:
        """Note that ``holder`` is about to give its process back, so it need not be asked."""
        self._resting.pop(holder, None)
        self._spared.pop(holder, None)

    def gone(self, holder: Holder) -> None:
        """Note that ``holder`` has given its process back."""
        self._asked.discard(holder)

    def _ask(self) -> None:
        while len(self._asked) < len(self._waiters):
            spared = self._spared if len(self._asked) < self._pressing else None
            if not (resting := self._resting or spared):
                return
            holder, _ = resting.popitem(last=False)
            self._asked.add(holder)
            holder.give_up_process()

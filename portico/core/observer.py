"""Observers, which are told of everything that happens, while nobody waits for them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, Protocol

import anyio

from portico.core.errors import StoreFailed
from portico.core.events import Event
from portico.core.feed import Feed
from portico.core.life import Life
from portico.core.reader import Reader
from portico.core.requests import SessionView
from portico.core.stranger import strangers
from portico.core.wakeup import Wakeup

OBSERVE_SECONDS = 30.0
"""The time that an observer may take for each call, and to be entered."""

RETRY_SECONDS = 1.0
"""The pause before a store that fails is read again."""

LEAVE_SECONDS = 5.0
"""The time that an observer may take to clean up."""

log = logging.getLogger("portico.observer")


class Observer(Protocol):
    async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
        """Take note of ``events`` of one session. They are stored, in order, and without a hole between calls.

        There is one call at a time. If it fails, or takes longer than `OBSERVE_SECONDS`, that is logged, and the call
        is not repeated. An observer learns of events while the server runs: it may never learn of those just before a
        ``kill -9``.

        An observer that is an async context manager is entered before the first call and exited after the last one, by
        the task that makes the calls. If it can't be entered, it is never called.
        """


class Observation:
    """The progress of one observer: the sessions that have new events, and the ``seq`` behind which these begin.

    An observer reads with a cursor, as everybody does, so a slow one costs only one number for each session.
    """

    def __init__(self, name: str, observer: Observer, view: Callable[[Life], Awaitable[SessionView | None]]) -> None:
        """``view`` returns the current view of a session; None once it is purged."""
        self.name = name
        self._observer = observer
        self._view = view
        self._behind: dict[Feed, int] = {}
        self._wakeup = Wakeup()
        self._caught_up = anyio.Event()
        self._caught_up.set()
        self._useless = False
        self._waiting = False

    def note(self, feed: Feed, first_seq: int) -> None:
        """Note that there are new events, from ``first_seq`` on."""
        if self._useless:
            return
        if self._caught_up.is_set():
            self._caught_up = anyio.Event()
        self._behind.setdefault(feed, first_seq - 1)
        self._wakeup.set()

    @property
    def behind(self) -> int:
        """The number of sessions with events that the observer has not been told of yet."""
        return len(self._behind)

    async def caught_up(self) -> None:
        """Wait until the observer has been told of all events, and its last call has returned."""
        await self._caught_up.wait()

    async def run(self) -> None:
        """Tell the observer of events until cancelled. Return early if it could not be entered."""
        if not isinstance(self._observer, AbstractAsyncContextManager):
            await self._tell_all()
        # One scope around everything, with a moving deadline: the observer may enter scopes of its own.
        with anyio.CancelScope(deadline=anyio.current_time() + OBSERVE_SECONDS) as scope:
            try:
                with strangers():
                    async with self._observer:
                        scope.deadline = math.inf
                        try:
                            await self._tell_all()
                        finally:
                            scope.shield, scope.deadline = True, anyio.current_time() + LEAVE_SECONDS
            except Exception:
                log.exception("observer %s failed at its beginning or end", self.name)
        if scope.cancelled_caught:
            log.warning("observer %s took too long to begin or end", self.name)
        self._useless = True
        self._behind.clear()
        self._caught_up.set()

    async def _tell_all(self) -> NoReturn:
        while True:
            while self._behind:
                feed = next(iter(self._behind))
                after = await self._tell(feed, self._behind.pop(feed))
                # It may have been noted again meanwhile; only here do we know how far the reading came.
                self._behind.pop(feed, None)
                if after < feed.last_seq:
                    self._behind[feed] = after  # behind the others
            self._caught_up.set()
            await self._wakeup.wait()

    async def _tell(self, feed: Feed, after: int) -> int:
        """Tell the observer of some events behind ``after``; return the ``seq`` behind which the next call goes on."""
        reader = Reader(feed, after=after)
        try:
            session = await self._view(feed.life)
            if session is None:
                return feed.last_seq
            events = await reader.read()
            self._waiting = False
            with anyio.move_on_after(OBSERVE_SECONDS) as scope, strangers():
                await self._observer.observe(session, events)
            if scope.cancelled_caught:
                log.warning("observer %s took over %g s; it is not told again", self.name, OBSERVE_SECONDS)
        except StoreFailed as failure:
            if not self._waiting:
                log.warning("what observer %s is to be told can't be read yet: %s", self.name, failure.detail)
            self._waiting = True
            await anyio.sleep(RETRY_SECONDS)
        except Exception:
            log.exception("observer %s failed", self.name)
            return max(reader.after, after + 1)
        return reader.after


class Observations:
    """One `Observation` for each observer."""

    def __init__(
        self, observers: Mapping[str, Observer], view: Callable[[Life], Awaitable[SessionView | None]]
    ) -> None:
        self._each = [Observation(name, observer, view) for name, observer in observers.items()]

    def __iter__(self) -> Iterator[Observation]:
        return iter(self._each)

    def note(self, feed: Feed, first_seq: int) -> None:
        """Do as `Observation.note` for all observers."""
        for observation in self._each:
            observation.note(feed, first_seq)

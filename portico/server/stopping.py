"""SIGTERM and SIGINT: the first cancels a start or asks a server to stop, the next one speeds up the stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator

import anyio

log = logging.getLogger("portico")


class StopSignals:
    """The signals to a server. A signal before `started` cancels ``start_scope``."""

    def __init__(self, signals: AsyncIterator[signal.Signals]) -> None:
        self.start_scope = anyio.CancelScope()
        self._signals = signals
        self._started = False
        self._first: signal.Signals | None = None
        self._stopping = False
        self._asked = anyio.Event()
        self._asked_again = anyio.Event()

    async def listen(self) -> None:
        """Receive signals until cancelled."""
        async for number in self._signals:
            if not self._started:
                log.info("%s: stopping", number.name)
                self.start_scope.cancel()
            elif self._first is None and not self._stopping:
                self._first = number
                self._asked.set()
            else:
                self._asked_again.set()

    def started(self) -> None:
        """From now on, let a signal ask for a stop and cancel nothing."""
        self._started = True

    async def asked(self, over: anyio.Event) -> str:
        """Wait for the first signal, or until ``over`` is set. Return the reason, for the log."""
        async with anyio.create_task_group() as waiting:

            async def end() -> None:
                await over.wait()
                waiting.cancel_scope.cancel()

            waiting.start_soon(end)
            await self._asked.wait()
            waiting.cancel_scope.cancel()
        self._stopping = True
        return self._first.name if self._first else "no transport is left"

    async def asked_again(self) -> None:
        """Wait for the signal after the one that `asked` reported, or after ``over``."""
        await self._asked_again.wait()

"""Transports, each on its own: one that cannot start gives a reason, and one that dies leaves the others serving."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from portico.core.errors import PorticoError
from portico.core.sessions import Sessions
from portico.core.stranger import strangers
from portico.transports.base import Transport, TransportFailed

START_SECONDS = 60.0
"""Seconds that a transport may take until it is reachable."""

log = logging.getLogger("portico.transports")


class Serving:
    """The transports of one server. ``over`` is set once none of them is left; ``failures`` has the reason for each."""

    def __init__(self, engine: Sessions, transports: Mapping[str, Transport]) -> None:
        self.over = anyio.Event()
        self.failures: dict[str, str] = {}
        self._engine = engine
        self._transports = dict(transports)
        self._started: set[str] = set()
        self._all_started = False

    async def start(self, tasks: TaskGroup) -> tuple[str, ...]:
        """Start all; return their addresses. Raises `TransportFailed`."""
        addresses = []
        for name, transport in self._transports.items():
            with anyio.move_on_after(START_SECONDS):
                addresses.append(str(await tasks.start(self._serve, name, transport, name=f"transport {name}")))
                continue
            raise TransportFailed(f"the transport {name} is not reachable after {START_SECONDS:g} s")
        self._all_started = True
        self._see_whether_any_is_left()
        return tuple(addresses)

    async def _serve(self, name: str, transport: Transport, *, task_status: TaskStatus[str]) -> None:
        reason = "it ended by itself"
        try:
            with strangers():
                await transport.serve(self._engine, task_status=_Noting(task_status, partial(self._started.add, name)))
        except Exception as error:
            cause = _leaf(error)
            if name not in self._started and isinstance(cause, PorticoError):
                raise cause from None
            reason = f"{type(cause).__name__}: {cause}"
            log.debug("transport %s", name, exc_info=True)
        if name not in self._started:
            raise TransportFailed(f"the transport {name} can't start: {reason}")
        log.error("the transport %s has stopped serving: %s", name, reason)
        self.failures[name] = reason
        self._engine.failed[f"transport {name}"] = reason
        self._started.remove(name)
        self._see_whether_any_is_left()

    def _see_whether_any_is_left(self) -> None:
        if self._all_started and not self._started:  # one that dies at once must not stop the start of the others
            self.over.set()


class _Noting(TaskStatus[str]):
    def __init__(self, status: TaskStatus[str], note: Callable[[], None]) -> None:
        self._status = status
        self._note = note

    def started(self, value: Any = None) -> None:
        self._note()
        self._status.started(value)


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

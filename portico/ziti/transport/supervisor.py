"""The supervisor of the listener: it restarts it after each failure, with growing delays, and keeps its status."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NoReturn

import anyio
from anyio.abc import ObjectSendStream, TaskStatus

from portico.core.threads import in_thread
from portico.transports.base import TransportFailed
from portico.transports.dialler import Dialler
from portico.ziti.listener.listener_control import Task
from portico.ziti.transport.listener_process import LEAVE_SECONDS, ListenerProcess
from portico.ziti.transport.network_failures import NEVER_SAID, ListenerFailed, ended, failed, lost, refused
from portico.ziti.transport.prober import Prober
from portico.ziti.transport.status import Status

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
WELL_SECONDS = 60.0
"""If a listener fails after it was bound for so long, the delays start from the first one again."""

log = logging.getLogger("portico.ziti")

Connections = ObjectSendStream[tuple[socket.socket, Dialler]]


class Supervisor:
    """Keeps a listener running.

    ``check`` raises `TransportFailed` if no listener could work; ``changed`` is called for each new ``status``;
    ``in_use`` tells whether a service has open connections. A connection waits until ``connections`` takes it; until
    then the next one is not even read. With ``required``, a service that can't be bound fails the start.
    """

    def __init__(
        self,
        task: Task,
        environment: Mapping[str, str],
        connections: Connections,
        *,
        check: Callable[[], None],
        dialler: Callable[[str, str], Dialler],
        changed: Callable[[], None],
        in_use: Callable[[str], bool] = lambda service: False,
        required: bool = False,
        status: Status | None = None,
        first_delay: float = FIRST_DELAY,
    ) -> None:
        self.status = status or Status(task.services)
        self.settled = anyio.Event()
        """Set once each service is bound or refused, or the first try has failed."""
        self.patient = False
        """If true, lasting failures are retried too, because somebody may fix them."""
        self._task = task
        self._environment = environment
        self._connections = connections
        self._check = check
        self._dialler = dialler
        self._changed = changed
        self._in_use = in_use
        self._required = required
        self._first_delay = first_delay
        self._scope = anyio.CancelScope(shield=True)
        self._child: ListenerProcess | None = None
        self._bound_since: float | None = None
        self._ready = anyio.Event()
        self._probing = anyio.CancelScope()
        self._had: set[str] = set()
        self._over = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`, despite cancellation. Raises `TransportFailed` for lasting failures, unless ``patient``."""
        try:
            with self._scope:
                task_status.started()
                await self._keep_running()
        finally:
            self._over.set()

    def refuse(self) -> None:
        """Accept no more connections, and don't mind that probes no longer get through."""
        self._probing.cancel()
        if self._child is not None:
            self._child.refuse()

    async def stop(self) -> None:
        """End the listener, once the remaining data of connections is on its way."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._over.wait()

    async def _keep_running(self) -> NoReturn:
        delays = self._delays()
        while True:
            try:
                await self._run_once()
            except TransportFailed as failure:
                if not self.patient:
                    raise
                reason = failure.detail
            except ListenerFailed as failure:
                reason = str(failure)
                if failure.lasting and not self.patient:
                    raise TransportFailed(f"the transport ziti can't start: {reason}") from failure
            if self._bound_since is not None and anyio.current_time() - self._bound_since >= WELL_SECONDS:
                delays = self._delays()
            self.status.failures += 1
            self.status.seconds = next(delays)
            self.status.bound.clear()
            self._enter("waiting", reason)
            self.settled.set()
            log.warning("ziti: %s; trying again in %.1f s", reason, self.status.seconds)
            await anyio.sleep(self.status.seconds)

    async def _run_once(self) -> NoReturn:
        """Run one listener. Raises `ListenerFailed` at its end, or `TransportFailed`."""
        self._bound_since, self._ready = None, anyio.Event()
        self._had.clear()
        await in_thread(self._check)
        self.status.starts += 1
        self.status.refused.clear()
        self._enter("loading", self.status.reason)
        child = self._child = ListenerProcess.listen(self._task, self._environment)
        failure: ListenerFailed | None = None
        status = 0

        async def until_failed(watch: Callable[[ListenerProcess], Awaitable[None]]) -> None:
            nonlocal failure
            try:
                await watch(child)
            except ListenerFailed as error:
                failure = failure or error
            tasks.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child.drain)
                tasks.start_soon(until_failed, self._probe)
                await until_failed(self._listen)
        finally:
            self._child = None
            status = await child.close(LEAVE_SECONDS if failure is None else 0.0)
        raise failure or ended(status, child.last_words)

    async def _probe(self, child: ListenerProcess) -> None:
        """Probe the services once they are bound. Raises `ListenerFailed`."""

        def rebind(service: str, text: str) -> None:
            child.rebind(service)
            self._lost(service, text)

        with anyio.CancelScope() as self._probing:
            await self._ready.wait()
            await Prober(self._task, self._environment, self.status, self._in_use).run(rebind)
        await anyio.sleep_forever()

    async def _listen(self, child: ListenerProcess) -> None:
        """Handle messages until the listener ends without a last one. Raises `ListenerFailed`."""
        while (received := await child.hear()) is not None:
            message, connection = received
            if connection is not None:
                await self._pass_on(message, connection)
            else:
                self._note(message)

    async def _pass_on(self, message: Mapping[str, Any], connection: socket.socket) -> None:
        service, caller = message.get("service"), message.get("caller")
        if service not in self._task.services or not isinstance(caller, str) or connection.type != socket.SOCK_STREAM:
            connection.close()
            raise ListenerFailed(NEVER_SAID)
        self.status.connections += 1
        try:
            await self._connections.send((connection, self._dialler(service, caller)))
        except BaseException:
            connection.close()
            raise

    def _note(self, message: Mapping[str, Any]) -> None:
        service: Any = message.get("service")
        kind = message["type"]
        if kind in ("bound", "refused", "lost") and service not in self._task.services:
            raise ListenerFailed(NEVER_SAID)
        match kind:
            case "alive" | "connection":
                pass  # a connection without its descriptor: we had too many open
            case "version":
                log.info("ziti: openziti %s", message.get("library"))
            case "binding":
                if self.status.state == "loading":
                    self._enter("binding", self.status.reason)
            case "bound":
                self._bound(service)
            case "refused":
                self._refused(service, refused(message), hung=bool(message.get("hung")))
            case "lost":
                self._lost(service, str(message.get("text")))
            case "ready":
                self._bound_since = anyio.current_time()
                self._ready.set()
                self._enter("bound")
            case "failed":
                raise failed(message)
            case _:
                raise ListenerFailed(NEVER_SAID)

    def _bound(self, service: str) -> None:
        log.info("ziti: the service %s is bound", service)
        self._had.add(service)
        self.status.bound.add(service)
        self.status.refused.pop(service, None)
        self._tell()

    def _refused(self, service: str, failure: ListenerFailed, *, hung: bool) -> None:
        if self._required and failure.lasting and not self.patient:
            raise failure
        others_in_use = any(self._in_use(other) for other in self.status.bound if other != service)
        if hung and service in self._had and not others_in_use:
            raise failure  # it could be bound before: perhaps another start of the library helps, and nobody is cut off
        self._do_without(service, str(failure))

    def _lost(self, service: str, text: str) -> None:
        self._do_without(service, lost(service, text))

    def _do_without(self, service: str, words: str) -> None:
        if self.status.refused.get(service) != words:
            log.warning("ziti: %s; it is tried again, and the other services go on", words)
        self.status.bound.discard(service)
        self.status.refused[service] = words
        self.status.refusals[service] += 1
        self._tell()

    def _enter(self, state: str, reason: str = "") -> None:
        self.status.state, self.status.reason = state, reason
        self._tell()

    def _tell(self) -> None:
        if self.status.state == "bound":
            self.settled.set()
        self._changed()

    def _delays(self) -> Iterator[float]:
        delay = self._first_delay
        while True:
            yield delay * random.uniform(0.8, 1.2)  # noqa: S311 - servers that fail together must not retry together
            delay = min(2 * delay, LONGEST_DELAY)

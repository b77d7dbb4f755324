"""The transport ``ziti``."""

from __future__ import annotations

import logging
import math
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskStatus
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.core.principal import Callers, Principal
from portico.core.quota import StreamQuota
from portico.core.sessions import Sessions
from portico.transports.asgi import Api, create_app
from portico.transports.base import TransportFailed
from portico.transports.dialler import Dialler
from portico.transports.hosts import ANY, LOOPBACK
from portico.transports.server import Limits, limits, serve_app
from portico.transports.streams import Streams
from portico.ziti.identity import IdentityError, check_identity
from portico.ziti.listener.listener_control import Task
from portico.ziti.transport.status import Status
from portico.ziti.transport.supervisor import Supervisor
from portico.ziti.transport.ziti_metrics import Open, ziti_families

if TYPE_CHECKING:
    from portico.config.settings import Settings
    from portico.plugins.context import Context
    from portico.transports.base import Transport

BIND_SECONDS = 10.0
"""The time that the start waits for the network; then the server starts without it, and binds when it can."""
AWAY_SECONDS = 15.0
"""The time for a listener to come back before the server counts as not ready."""
LONGEST_NAME = 128
"""The longest name of a caller that counts as a principal."""

log = logging.getLogger("portico.ziti")

Connections = AsyncIterator[tuple[socket.socket, Dialler]]


@dataclass(frozen=True, slots=True)
class Diallers:
    """Finds the principal of a caller: that of the dialled service; else, with ``trust``, the one it claims to be."""

    principals: Mapping[str, Principal | None]
    trust: bool = False

    def __call__(self, service: str, caller: str) -> Dialler:
        principal = self.principals[service]
        if principal is None and self.trust and 0 < len(caller) <= LONGEST_NAME and caller.isprintable():
            principal = Principal(caller)
        return Dialler(service, caller, principal)


class ZitiTransport:
    """Binds the services in ``task``. ``environment`` is that of Ziti's library.

    With ``required``, each service must be bound at the start. Without it, and if the transport is not ``alone``,
    nothing that Ziti does fails the start: the other transports serve.
    """

    name = "ziti"

    def __init__(
        self,
        callers: Callers,
        *,
        task: Task,
        diallers: Diallers,
        environment: Mapping[str, str],
        api: Api,
        limits: Limits,
        quota: StreamQuota | None = None,
        required: bool = False,
        alone: bool = True,
        bind_seconds: float = BIND_SECONDS,
    ) -> None:
        self._callers = callers
        self._task = task
        self._diallers = diallers
        self._environment = environment
        self._api = api
        self._limits = limits
        self._quota = quota
        self._required = required
        self._patient = not (required or alone)
        self._bind_seconds = bind_seconds
        self._status = Status(task.services)
        self._bound_at = -math.inf  # the end of the time when a service was bound; infinite while one is
        self._open = Open(task.services)
        api.metrics.add(*ziti_families(task.services, self._status, self._open))

    async def serve(self, engine: Sessions, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        if self._diallers.trust:
            log.warning("ziti_trust_caller: anybody who may dial can make up a name, and act as its owner")
        key = f"transport {self.name}"

        def changed() -> None:
            if (trouble := supervisor.status.trouble()) is None:
                engine.failed.pop(key, None)
            else:
                engine.failed[key] = trouble
            if self._status.bound:
                self._bound_at = math.inf
            elif self._bound_at == math.inf:
                self._bound_at = anyio.current_time()

        engine.unready[key] = self._unreachable
        streams = Streams(self._quota, self._api.metrics)
        app = answer_probes(create_app(engine, self._callers, streams, self._api), self._task.probe_path)
        address = f"ziti:{','.join(self._task.services)}"
        send, receive = anyio.create_memory_object_stream[tuple[socket.socket, Dialler]](0)
        supervisor = Supervisor(
            self._task,
            self._environment,
            send,
            check=self._check,
            dialler=self._diallers,
            in_use=lambda service: self._open.count(service) > 0,
            required=self._required,
            status=self._status,
            changed=changed,
        )
        supervisor.patient = self._patient
        with send, receive:
            async with anyio.create_task_group() as tasks:
                await tasks.start(supervisor.run)
                try:
                    await self._settle(supervisor)
                    tasks.start_soon(_refuse_at_the_end, supervisor)
                    await serve_app(
                        app,
                        streams,
                        (),
                        address,
                        limits=self._limits,
                        connections=self._counted(receive),
                        task_status=task_status,
                    )
                finally:
                    # Only at the end: connections work only as long as the listener does.
                    await supervisor.stop()
                    self._bound_at = -math.inf

    def _unreachable(self) -> str | None:
        """Say why nobody gets here, unless that may pass: no service is bound, and none was a moment ago."""
        if self._bound_at == math.inf or anyio.current_time() - self._bound_at < AWAY_SECONDS:
            return None
        return self._status.trouble() or "no service is bound"

    async def _counted(self, connections: Connections) -> Connections:
        async for connection, dialler in connections:
            self._open.add(dialler.service, connection)
            yield connection, dialler

    def _check(self) -> None:
        try:
            check_identity(Path(self._task.identity))
        except IdentityError as error:
            raise TransportFailed(str(error)) from error

    async def _settle(self, supervisor: Supervisor) -> None:
        with anyio.move_on_after(self._bind_seconds):
            await supervisor.settled.wait()
        supervisor.patient = True
        if trouble := supervisor.status.trouble():
            log.warning("ziti: %s", trouble)


def answer_probes(app: ASGIApp, path: str) -> ASGIApp:
    """Answer the probes before they reach the app: they need no token, and are not logged."""

    async def probed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == path:
            await Response(status_code=204)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return probed


async def _refuse_at_the_end(supervisor: Supervisor) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        supervisor.refuse()


def create(context: Context) -> Transport:
    if sys.platform != "linux":
        raise TransportFailed("the transport ziti needs Linux: it hands connections from process to process")
    settings = context.settings
    services = settings.ziti_service_name
    if settings.ziti_identity_file is None:
        raise TransportFailed("the transport ziti needs ziti_identity_file")
    anonymous = settings.auth == ("none",)
    if anonymous and not all(service.principal for service in services):
        raise TransportFailed(
            "with auth=none whoever may dial could do everything: name a principal for each service (name=principal)"
        )
    principals = {
        service.name: Principal(service.principal, service.admin) if service.principal else None for service in services
    }
    return ZitiTransport(
        context.callers,
        task=Task(str(settings.ziti_identity_file), tuple(principals), f"/{secrets.token_urlsafe()}"),
        diallers=Diallers(principals, settings.ziti_trust_caller),
        environment=context.ziti_environment,
        api=Api(
            settings.api_prefix,
            settings.max_body,
            _hosts(settings, list(principals)),
            settings.allowed_origins,
            routes=context.routes,
            tickets=context.tickets,
            transport="ziti",
            metrics=context.metrics,
            intake=context.intake,
            heartbeat=settings.heartbeat,
            everything=settings.prefix_everything,
        ),
        limits=limits(settings),
        quota=context.stream_quota,
        required=settings.ziti_required,
        alone=settings.networking_mode == ("ziti",),
    )


def _hosts(settings: Settings, services: Sequence[str]) -> frozenset[str]:
    """Return the allowed hosts. If callers need tokens, any will do, as DNS rebinding then gains a web page nothing."""
    if not settings.ziti_trust_caller and not any(service.principal for service in settings.ziti_service_name):
        return frozenset({ANY})
    further = {f"[{name}]" if ":" in name else name for name in settings.allowed_hosts}
    return LOOPBACK | {name.lower() for name in (*services, *further)}

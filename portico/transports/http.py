"""The transports ``http`` and ``websocket``: the API on a TCP address or a Unix socket."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskStatus

from portico.core.principal import Callers
from portico.core.quota import StreamQuota
from portico.core.sessions import Sessions
from portico.transports.asgi import Api, create_app
from portico.transports.base import TransportFailed
from portico.transports.hosts import ANY, allowed_names
from portico.transports.inherited import check_loopback, host_of, listening_at, of_transport
from portico.transports.listen import SocketAccess, listen_tcp, listen_unix
from portico.transports.server import Limits, limits, serve_app
from portico.transports.streams import Streams
from portico.transports.tls import Tls

if TYPE_CHECKING:
    from portico.plugins.context import Context
    from portico.transports.base import Transport


log = logging.getLogger("portico.transports")


class HttpTransport:
    """Listens on ``sockets`` if there are any, else on ``uds`` with its ``access`` if that is given, else on ``host``
    and ``port`` (0: a free one). TCP has ``tls`` if that is given.
    """

    def __init__(
        self,
        callers: Callers,
        *,
        name: str = "http",
        host: str,
        port: int,
        uds: Path | None,
        access: SocketAccess | None = None,
        sockets: Sequence[socket.socket] = (),
        api: Api,
        limits: Limits,
        tls: Tls | None = None,
        quota: StreamQuota | None = None,
        loopback_only: bool = False,
    ) -> None:
        self.name = name
        self._tls = tls
        self._quota = quota
        self._callers = callers
        self._host = host
        self._port = port
        self._uds = uds
        self._access = access
        self._sockets = sockets
        self._api = api
        self._limits = limits
        self._loopback_only = loopback_only

    async def serve(self, engine: Sessions, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        with ExitStack() as stack:
            scheme = ("http" if self._api.rest else "ws") + ("s" if self._tls else "")
            if self._sockets:
                sockets = [stack.enter_context(each) for each in self._sockets]
                if self._loopback_only:
                    check_loopback(sockets)
                addresses = [listening_at(each).replace("http://", f"{scheme}://") for each in sockets]
                log.info("the service manager has opened %s", ", ".join(addresses))
                address = addresses[0]
            elif self._uds is not None:
                sockets, address = [stack.enter_context(listen_unix(self._uds, self._access))], f"unix:{self._uds}"
            else:
                sockets, address = await listen_tcp(self._host, self._port, loopback_only=self._loopback_only)
                for listener in sockets:
                    stack.enter_context(listener)
                address = address.replace("http://", f"{scheme}://")
            streams = Streams(self._quota, self._api.metrics)
            app = create_app(engine, self._callers, streams, self._api)
            await serve_app(
                app,
                streams,
                sockets,
                address,
                limits=self._limits,
                tls=self._tls.context if self._tls else None,
                task_status=task_status,
            )


def create(context: Context, *, name: str = "http") -> Transport:
    """Make the transport ``http``, or ``websocket``, which is the same but serves WebSocket only."""
    settings = context.settings
    sockets = of_transport(context.sockets, name, settings.networking_mode)
    hosts = [host_of(each) for each in sockets if each.family != socket.AF_UNIX]
    if not sockets and not settings.uds:
        hosts = [settings.host]
    # On a Unix socket any name will do: browsers can't reach it, except through a proxy, which passes on their Origin.
    own = allowed_names(hosts[0] if hosts else settings.host, [*hosts[1:], *settings.allowed_hosts])
    names = own if hosts else {ANY}
    tls = None
    if settings.tls_cert and settings.tls_key:
        if not hosts:
            raise TransportFailed("tls_cert: there is no TLS on a Unix socket (uds)")
        tls = Tls(settings.tls_cert, settings.tls_key)
        context.reloads.add("tls_cert", lambda new: tls.load(new.tls_cert, new.tls_key))
    return HttpTransport(
        context.callers,
        name=name,
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        access=SocketAccess(int(settings.uds_mode, 8), settings.uds_group),
        sockets=sockets,
        api=Api(
            settings.api_prefix,
            settings.max_body,
            names,
            settings.allowed_origins,
            rest=name == "http",
            routes=context.routes,
            tickets=context.tickets,
            proxies=settings.trusted_proxies if settings.proxy_headers else (),
            page_hosts=own,
            transport=name,
            metrics=context.metrics,
            intake=context.intake,
            heartbeat=settings.heartbeat,
            root_path=settings.root_path or "",
            everything=settings.prefix_everything,
        ),
        limits=limits(settings),
        tls=tls,
        quota=context.stream_quota,
        loopback_only="none" in settings.auth,  # the settings check the name only, which may lead anywhere
    )

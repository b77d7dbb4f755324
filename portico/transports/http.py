"""The transports ``http`` and ``websocket``: the API on a TCP address or a Unix socket."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskStatus

from portico.core.engine import Engine
from portico.core.principal import Callers
from portico.transports.asgi import Api, create_app
from portico.transports.hosts import ANY, allowed_names
from portico.transports.listen import listen_tcp, listen_unix
from portico.transports.server import Limits, serve_app
from portico.transports.streams import Streams

if TYPE_CHECKING:
    from portico.plugins.context import Context
    from portico.transports.base import Transport


class HttpTransport:
    """Listens on ``uds`` if that is given, else on ``host`` and ``port`` (0: a free one)."""

    def __init__(
        self,
        callers: Callers,
        *,
        name: str = "http",
        host: str,
        port: int,
        uds: Path | None,
        api: Api,
        limits: Limits,
        loopback_only: bool = False,
    ) -> None:
        self.name = name
        self._callers = callers
        self._host = host
        self._port = port
        self._uds = uds
        self._api = api
        self._limits = limits
        self._loopback_only = loopback_only

    async def serve(self, engine: Engine, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        with ExitStack() as stack:
            if self._uds is not None:
                sockets, address = [stack.enter_context(listen_unix(self._uds))], f"unix:{self._uds}"
            else:
                sockets, address = await listen_tcp(self._host, self._port, loopback_only=self._loopback_only)
                for listener in sockets:
                    stack.enter_context(listener)
            if not self._api.rest:
                address = address.replace("http://", "ws://")
            streams = Streams()
            app = create_app(engine, self._callers, streams, self._api)
            await serve_app(app, streams, sockets, address, limits=self._limits, task_status=task_status)


def create(context: Context, *, name: str = "http") -> Transport:
    """The transport ``http``, or ``websocket``: the same without what is not WebSocket."""
    settings = context.settings
    # Nobody gets at a Unix socket through a browser, and any name will do there.
    hosts = {ANY} if settings.uds else allowed_names(settings.host, settings.allowed_hosts)
    return HttpTransport(
        context.callers,
        name=name,
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        api=Api(
            settings.api_prefix,
            settings.max_body,
            hosts,
            settings.allowed_origins,
            rest=name == "http",
            routes=context.routes,
            tickets=context.tickets,
        ),
        limits=Limits(settings.write_timeout, settings.max_frame),
        loopback_only="none" in settings.auth,  # the setting knows names only, and a name may lead anywhere
    )

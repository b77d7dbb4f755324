"""Portico below another ASGI app, as hosts put it there: at `MOUNT`, in a plugin's transport ``mounted``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import anyio
from anyio.abc import TaskStatus
from starlette.applications import Starlette
from starlette.routing import Mount

from portico import Callers, Context, Sessions, Transport, hookimpl
from portico.core.quota import StreamQuota
from portico.transports.asgi import Api, create_app
from portico.transports.hosts import allowed_names
from portico.transports.listen import listen_tcp
from portico.transports.server import Limits, limits, serve_app
from portico.transports.streams import Streams

MOUNT = "/agents"
MOUNTED = {"PORTICO_PLUGINS": __name__, "PORTICO_NETWORKING_MODE": "mounted"}
"""Settings of a server that is mounted; its address has the mount's path."""


@dataclass(slots=True)
class MountedTransport:
    """Serves a Starlette app with Portico at `MOUNT`, and nothing else, on ``host`` and ``port``."""

    callers: Callers
    host: str
    port: int
    api: Api
    limits: Limits
    quota: StreamQuota | None = None
    loopback_only: bool = False
    name: str = "mounted"

    async def serve(self, engine: Sessions, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        streams = Streams(self.quota, self.api.metrics)
        app = Starlette(routes=[Mount(MOUNT, app=create_app(engine, self.callers, streams, self.api))])
        with ExitStack() as stack:
            sockets, address = await listen_tcp(self.host, self.port, loopback_only=self.loopback_only)
            for listener in sockets:
                stack.enter_context(listener)
            await serve_app(app, streams, sockets, f"{address}{MOUNT}", limits=self.limits, task_status=task_status)


def create(context: Context) -> Transport:
    settings = context.settings
    return MountedTransport(
        context.callers,
        settings.host,
        settings.port,
        Api(
            settings.api_prefix,
            settings.max_body,
            allowed_names(settings.host, settings.allowed_hosts),
            settings.allowed_origins,
            routes=context.routes,
            tickets=context.tickets,
            metrics=context.metrics,
            heartbeat=settings.heartbeat,
            root_path=settings.root_path or "",
            everything=settings.prefix_everything,
        ),
        limits(settings),
        context.stream_quota,
        loopback_only="none" in settings.auth,
    )


@hookimpl
def portico_transports() -> Mapping[str, Callable[[Context], Transport]]:
    return {"mounted": create}

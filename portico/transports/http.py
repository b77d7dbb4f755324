"""The transport ``http``: the API on a TCP address or a Unix socket."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskStatus

from portico.core.engine import Engine
from portico.core.principal import Authenticator
from portico.transports.asgi import create_app
from portico.transports.listen import listen_tcp, listen_unix
from portico.transports.server import serve_app
from portico.transports.streams import Streams

if TYPE_CHECKING:
    from portico.plugins.context import Context
    from portico.transports.base import Transport


class HttpTransport:
    """Listens on ``uds`` if that is given, else on ``host`` and ``port`` (0: a free one)."""

    name = "http"

    def __init__(
        self,
        authenticators: Sequence[Authenticator],
        *,
        host: str,
        port: int,
        uds: Path | None,
        prefix: str,
        max_body: int,
        write_timeout: float,
    ) -> None:
        self._authenticators = authenticators
        self._host = host
        self._port = port
        self._uds = uds
        self._prefix = prefix
        self._max_body = max_body
        self._write_timeout = write_timeout

    async def serve(self, engine: Engine, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        with ExitStack() as stack:
            if self._uds is not None:
                sockets, address = [stack.enter_context(listen_unix(self._uds))], f"unix:{self._uds}"
            else:
                sockets, address = await listen_tcp(self._host, self._port)
                for listener in sockets:
                    stack.enter_context(listener)
            streams = Streams()
            app = create_app(engine, self._authenticators, streams, prefix=self._prefix, max_body=self._max_body)
            await serve_app(app, streams, sockets, address, write_timeout=self._write_timeout, task_status=task_status)


def create(context: Context) -> Transport:
    settings = context.settings
    return HttpTransport(
        context.authenticators,
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        prefix=settings.api_prefix,
        max_body=settings.max_body,
        write_timeout=settings.write_timeout,
    )

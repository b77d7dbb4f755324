"""The scripted model, served on a free loopback port inside the calling process."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
import uvicorn

from portico.plugins.demo.model import ScriptedModel


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A scripted model and its address: `url` is an `ANTHROPIC_BASE_URL`."""

    url: str
    model: ScriptedModel


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the surrounding program handles signals


@asynccontextmanager
async def serve_model(host: str = "127.0.0.1") -> AsyncIterator[ServedModel]:
    """Serve a new model until the block ends; the end takes 0.2 s at most, even with stalled replies."""
    model = ScriptedModel()
    # With protocol 0, asyncio would keep Nagle's algorithm on.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listener:
        listener.bind((host, 0))
        listener.listen(128)
        # uvicorn's logging set-up is global, so the surrounding program keeps its own.
        config = uvicorn.Config(
            model.app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = _Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve, server, listener)
            try:
                yield ServedModel(f"http://{host}:{listener.getsockname()[1]}", model)
            finally:
                server.should_exit = True
                model.hang_up()


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # A cancelled uvicorn would not close its sockets; `should_exit` ends it, in bounded time.
    with anyio.CancelScope(shield=True):
        await server.serve([listener])

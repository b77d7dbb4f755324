"""An empty Starlette app on uvicorn, and an endpoint on it that replays events the way sse-starlette documents."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator

import uvicorn
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

EVENTS = 20_000


async def events(request: Request) -> EventSourceResponse:
    async def each() -> AsyncIterator[dict[str, str]]:
        for seq in range(1, EVENTS + 1):
            data = {"type": "delta", "session_id": "bench", "seq": seq, "turn_id": "t", "content": f"word{seq} "}
            yield {"id": str(seq), "data": json.dumps(data)}

    return EventSourceResponse(each())


class Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)


if __name__ == "__main__":
    app = Starlette(routes=[Route("/events", events)])
    Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False)).run()

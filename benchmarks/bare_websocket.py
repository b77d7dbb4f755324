"""A raw ASGI app on uvicorn, in its own default form, that sends events which are ready as text over a WebSocket."""

from __future__ import annotations

import json
from typing import Any

import uvicorn

from benchmarks.bare_app import EVENTS, Server

TEXTS = [
    json.dumps({"type": "delta", "session_id": "bench", "seq": seq, "turn_id": "t", "content": f"word{seq} "})
    for seq in range(1, EVENTS + 1)
]


async def app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    for text in TEXTS:
        await send({"type": "websocket.send", "text": text})
    await send({"type": "websocket.close"})


if __name__ == "__main__":
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False, lifespan="off")
    Server(config).run()

"""A raw ASGI app on uvicorn that sends ready frames to all who watch: /events over SSE, /ws over WebSockets.

`POST /start` makes `EVENTS` events, one each `GAP` seconds, and is answered after the last.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import uvicorn

from benchmarks.bare_app import Server
from portico.core.clock import rfc3339

EVENTS = 250
GAP = 0.02


class Feed:
    """Every event is encoded once, and every viewer sends it as soon as it is there."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.texts: list[str] = []
        self.changed = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/ws":
            await send({"type": "websocket.accept"})
            await self._watch(send, self.texts, lambda text: {"type": "websocket.send", "text": text})
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/events":
            await send(_body(b":\n"))
            await self._watch(send, self.frames, _body)
        await self._make()
        await send({"type": "http.response.body"})

    async def _watch(self, send: Any, ready: list[Any], message: Callable[[Any], dict[str, Any]]) -> None:
        sent = len(ready)
        while True:
            changed = self.changed
            for each in ready[sent:]:
                await send(message(each))
                sent += 1
            await changed.wait()

    async def _make(self) -> None:
        first = len(self.texts) + 1
        for seq in range(first, first + EVENTS):
            await asyncio.sleep(GAP)
            kind = "delta" if seq < first + EVENTS - 1 else "complete"
            # As long as a delta of ours, with its own time taken the same way.
            head = {"type": kind, "session_id": "s", "seq": seq, "time": rfc3339(), "turn_id": "t" * 32}
            text = json.dumps({**head, "content": "word ", "message_id": "m" * 28, "index": 0}, separators=(",", ":"))
            self.texts.append(text)
            self.frames.append(b"data: %b\nid: %d\n\n" % (text.encode(), seq))
            self.changed.set()
            self.changed = asyncio.Event()


def _body(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


if __name__ == "__main__":
    Server(
        uvicorn.Config(
            Feed(),
            port=0,
            loop="uvloop",
            http="httptools",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            log_level="critical",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    ).run()

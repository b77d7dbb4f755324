"""Viewers, in a process of their own: they note when which bytes come, and read them when all is over.

An event's age is from its own ``time`` (when it was made, before it was stored, in whole milliseconds) to the arrival
of the bytes that it stands in, by the one clock of this machine.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import statistics
import sys
import time
from bisect import bisect_right
from datetime import datetime
from itertools import accumulate
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.servers import HEADERS

VIEWERS, STALLED = 200, 5
SECONDS = 60
_EVENT = re.compile(rb'"seq":(\d+),"time":"([^"]+)"')
_END = b'"type":"complete"'


class Viewer(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self._chunks: list[bytes] = []
        self._times: list[float] = []
        self.there, self.done = asyncio.Event(), asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._times.append(time.time())
        self._chunks.append(data)
        self.there.set()
        if _END in data:
            self.done.set()

    def ages(self, made: dict[bytes, float]) -> dict[int, float]:
        """Milliseconds, by ``seq``. ``made`` keeps what was parsed of the times in it."""
        ends = list(accumulate(map(len, self._chunks)))
        found = {}
        for match in _EVENT.finditer(b"".join(self._chunks)):
            seq, text = match.groups()
            if text not in made:
                made[text] = datetime.fromisoformat(text.decode()).timestamp()
            found[int(seq)] = (self._times[bisect_right(ends, match.end())] - made[text]) * 1000
        return found


class Stalled(Viewer):
    """Asks, and never reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        cast(asyncio.Transport, transport).pause_reading()
        super().connection_made(transport)


def request(netloc: str, path: str, *, websocket: bool) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {netloc}", *(f"{name}: {value}" for name, value in HEADERS.items())]
    if websocket:
        key = base64.b64encode(os.urandom(16)).decode()
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        lines += ["Sec-WebSocket-Protocol: portico.v1"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def watch(url: str, sse: str, websocket: str, after: int, stalled: int) -> None:
    """Half of them on each path; ``stalled`` more, which come first, ask for all there is and never read it.

    Prints a line when all are there, and the figures when all have seen the end.
    """
    address, loop = urlsplit(url), asyncio.get_running_loop()

    async def connect(number: int, kind: type[Viewer], seq: int) -> Viewer:
        path = (websocket if number % 2 else sse) + f"?after={seq}"
        asked = request(address.netloc, path, websocket=bool(number % 2))
        _, viewer = await loop.create_connection(lambda: kind(asked), address.hostname or "", address.port or 0)
        return viewer

    for number in range(stalled):
        await connect(number, Stalled, 0)
    viewers = [await connect(number, Viewer, after) for number in range(VIEWERS)]
    async with asyncio.timeout(SECONDS):
        for viewer in viewers:
            await viewer.there.wait()
        print("ready", flush=True)
        for viewer in viewers:
            await viewer.done.wait()
    made: dict[bytes, float] = {}
    all_ages = [viewer.ages(made) for viewer in viewers]
    every = set[int]().union(*all_ages)
    expected = range(after + 1, max(every) + 1)
    ages = [age for seen in all_ages for age in seen.values()]
    cuts = statistics.quantiles(ages, n=100)
    lost = sum(len(set(expected) - seen.keys()) for seen in all_ages)
    times = sorted(made.values())
    rate = len(expected) / (times[-1] - times[0])
    print(json.dumps({"p50": cuts[49], "p99": cuts[98], "lost": lost, "rate": rate}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watch(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))

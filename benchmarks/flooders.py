"""One client that floods a server, in a process of its own: sends the same again and again until its input ends.

It has less priority than the server, so that where there are few processors its own work delays the server less.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Thread
from urllib.parse import urlsplit

from benchmarks.servers import HEADERS

SIZE = 31 * 1024 * 1024
CONNECTIONS = 1
"""Of one client that sends bodies without their ends."""
PAUSE = 0.05
"""Seconds between two requests on one connection."""
SECONDS = 30.0
"""For the server to take what is sent, and to answer it."""
NICE = 15


class Flooder:
    """``ticket`` is one of a principal's, to read only."""

    def __init__(self, url: str, ticket: str) -> None:
        address = urlsplit(url)
        self._address = address.hostname or "", address.port or 0
        self._ticket = ticket
        self.sent = 0

    def values(self) -> None:
        """A query of millions of small values."""
        self._again_and_again(self._post(_filled(b'{"query":[', b"{},", b"{}]}")))

    def escapes(self) -> None:
        """A query of which each character is an escape. The turn is known, so that it does not run again."""
        self._again_and_again(self._post(_filled(b'{"turn_id":"known","query":"', b"\\u0041", b'"}')))

    def frames(self) -> None:
        """A WebSocket frame of millions of small values, of who may only read."""
        payload = _filled(b'{"type":"query","content":[', b"0,", b"0]}")
        frame = b"\x81\xff" + struct.pack("!Q", len(payload)) + bytes(4) + payload  # masked, with zeros
        self._again_and_again(self._handshake(), frame)

    def halves(self) -> None:
        """Bodies that lack their ends, on many connections at once."""
        request = self._post(_filled(b'{"query":"', b"x", b'"}'))[:-1]
        for _ in range(CONNECTIONS):
            Thread(target=self._again_and_again, args=(request,), daemon=True).start()

    def small(self) -> None:
        """Send small queries whose turn is known: no flood."""
        self._again_and_again(self._post(b'{"turn_id":"known","query":"x"}'))

    def _again_and_again(self, *parts: bytes) -> None:
        """Send each of ``parts``, and wait for the beginning of an answer to it."""
        while True:
            with suppress(OSError), socket.create_connection(self._address, timeout=SECONDS) as connection:
                for part in parts:
                    connection.sendall(part)
                    connection.recv(65536)
            self.sent += 1
            time.sleep(PAUSE)

    def _post(self, body: bytes) -> bytes:
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        return self._request("POST", "/claude/sessions/s/turns", {**HEADERS, **fields}) + body

    def _handshake(self) -> bytes:
        fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        fields |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "portico.v1"}
        return self._request("GET", f"/claude/ws/s?ticket={self._ticket}", fields)

    def _request(self, method: str, path: str, fields: Mapping[str, str]) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            *(f"{name}: {value}" for name, value in fields.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _filled(start: bytes, filling: bytes, end: bytes) -> bytes:
    return start + filling * ((SIZE - len(start) - len(end)) // len(filling)) + end


def _flood(flooder: Flooder, shape: str) -> None:
    shapes: Mapping[str, Callable[[], None]] = {
        each.__name__: each for each in (flooder.values, flooder.escapes, flooder.frames, flooder.halves, flooder.small)
    }
    print("ready", flush=True)
    sys.stdin.readline()
    Thread(target=shapes[shape], daemon=True).start()
    sys.stdin.read()
    print(flooder.sent, flush=True)


if __name__ == "__main__":
    os.nice(NICE)
    _flood(Flooder(sys.argv[1], sys.argv[2]), sys.argv[3])

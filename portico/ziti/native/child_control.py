"""The child's end of the socket over which its parent controls it."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import threading
from collections.abc import Mapping
from typing import Any

LARGEST = 128 * 1024
"""The most bytes of one message."""
_PR_SET_PDEATHSIG = 1  # prctl(2)

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode()


class ChildControl:
    """Messages are JSON objects, one per datagram of an AF_UNIX SOCK_SEQPACKET pair; each may carry a descriptor.

    The kernel ends the process together with ``parent``, even while the library hangs in C. Several threads may use
    this at once.
    """

    def __init__(self, fd: int, parent: int) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent had gone before prctl
            os._exit(0)
        self._end = socket.socket(fileno=fd)

    def fileno(self) -> int:
        return self._end.fileno()

    def receive(self) -> Message | None:
        """Wait for the next message; None once the parent has closed its end. Blocks."""
        try:
            data = self._end.recv(LARGEST)
        except ConnectionError:
            return None
        return json.loads(data) if data else None

    def send(self, message: Mapping[str, Any], *, passing: int | None = None, flags: int = 0) -> None:
        """Send a message, and a copy of the descriptor ``passing``. Raises OSError once the parent has gone."""
        socket.send_fds(self._end, [encode(message)], [] if passing is None else [passing], flags)

    def end_with_parent(self) -> None:
        """End the process as soon as the parent closes its end, even if the main thread hangs in the library."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._end, 0)  # a hang-up is always reported
        poll.poll()
        os._exit(0)  # the library's threads would delay an orderly exit

"""A child's end of the socket over which its parent steers it. Standard library only: the child is to start fast."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import threading
from typing import Any

LARGEST = 128 * 1024
"""Bytes of one message."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Control:
    """Messages are JSON objects, one a datagram of an AF_UNIX SOCK_SEQPACKET pair; one may carry a descriptor.

    The process ends with its parent: also while the library hangs in C, and also if the parent was killed.
    """

    def __init__(self, fd: int) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._socket = socket.socket(fileno=fd)
        # The signal is not sent where the parent had gone before it was asked for; the hang-up is always seen.
        threading.Thread(target=self._watch, daemon=True).start()

    def receive(self) -> dict[str, Any]:
        """The next message. Blocks; never returns once there is nobody to send one."""
        data = self._socket.recv(LARGEST)
        if not data:
            os._exit(0)  # the library's threads would hold up an orderly end
        message: dict[str, Any] = json.loads(data)
        return message

    def send(self, message: dict[str, Any], *, passing: int | None = None) -> None:
        """``passing``: a descriptor of which the parent gets a copy."""
        socket.send_fds(self._socket, [json.dumps(message).encode()], [] if passing is None else [passing])

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._socket, 0)  # a hang-up is always reported
        poll.poll()
        os._exit(0)

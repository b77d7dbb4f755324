"""The part of a service manager: a program that starts a server as systemd would, and a socket that hears its news."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio

from tests.support.limits import HANG_SECONDS

_START = """
import fcntl, os, sys
given = [int(fd) for fd in sys.argv[1].split(",") if fd]
moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in given]
for place, fd in enumerate(moved, 3):
    os.dup2(fd, place)
    os.close(fd)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(given))
os.execvp(sys.argv[2], sys.argv[2:])
"""


def starter(descriptors: Sequence[int] = ()) -> list[str]:
    """A command that starts the command behind it, as the same process, with ``descriptors`` from number 3 on."""
    return [sys.executable, "-c", _START, ",".join(map(str, descriptors))]


class News:
    """The messages of a server to its manager, each as a mapping."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    async def until(self, **wanted: str) -> dict[str, str]:
        """Return the next message that has these values; those before it are dropped."""
        with anyio.fail_after(HANG_SECONDS):
            while True:
                await anyio.wait_readable(self._receiver)
                lines = self._receiver.recv(65536).decode().splitlines()
                message = dict(line.split("=", 1) for line in lines)
                if wanted.items() <= message.items():
                    return message


@contextmanager
def news(address: Path | str) -> Iterator[News]:
    """Hear at ``address``, a path, or a name that begins with a NUL."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(address))
        receiver.setblocking(False)
        yield News(receiver)

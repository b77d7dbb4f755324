"""The parent's side of a child that has libziti loaded: the child may hang, crash, or send anything."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from portico.ziti.native.child_control import LARGEST, encode

END_SECONDS = 3.0
"""The time for a child to be gone after it was killed, or has closed its end."""

Received = tuple[dict[str, Any], socket.socket | None]


class ChildFailed(Exception):
    """The child has crashed, ended, or can't be started. The text is for people."""


class ChildHung(ChildFailed):
    pass


class Child:
    """A process ``python -m MODULE FD PARENT ARGUMENTS``, where FD is for its `ChildControl`. Always close it.

    It has a process session of its own, so that Ctrl-C does not reach it. It dies with the thread that started it.
    """

    def __init__(self, process: Popen[bytes], control: socket.socket) -> None:
        self.pid = process.pid
        self._process = process
        self._control = control

    @classmethod
    def start(cls, module: str, *arguments: str, environment: Mapping[str, str], output: int = DEVNULL) -> Self:
        """Start a child. Raises `ChildFailed`.

        ``environment`` is for the library; it must not have ZITI_IDENTITIES, as those would be loaded on import.
        ``output`` is the child's output, as for `Popen`.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise ChildFailed(f"it can't be started: {error}") from error
        ours.setblocking(False)
        command = [sys.executable, "-P", "-s", "-m", module, str(theirs.fileno()), str(os.getpid()), *arguments]
        with theirs:
            try:
                process = Popen(
                    # Not from the working directory: the child must import the same modules as we do.
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=DEVNULL,
                    stdout=output,
                    stderr=STDOUT,
                    bufsize=0,
                    cwd="/",
                    env={**environment, "HOME": "/", "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise ChildFailed(f"it can't be started: {error}") from error
        return cls(process, ours)

    def send(self, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # the child has gone, which `receive` reports
            self._control.send(encode(message))

    async def receive(self, within: float) -> Received | None:
        """Return the next message and the connection with it, if any; None once the child has ended. May be cancelled.

        Raises `ChildHung` if nothing comes for ``within`` seconds, `ChildFailed` for an invalid message.
        """
        await anyio.lowlevel.checkpoint()
        deadline = anyio.current_time() + within
        while True:
            late = anyio.current_time() >= deadline
            with suppress(BlockingIOError):
                return self._take()
            if late:  # noted before the try, because we may be late ourselves
                raise ChildHung(f"nothing for {within:g} s")
            with anyio.move_on_after(deadline - anyio.current_time()):
                await anyio.wait_readable(self._control)

    async def answer(self, within: float, what: str) -> Received:
        """Receive the answer to a request, and close the child if none comes. ``what`` names the request in errors."""
        try:
            received = await self.receive(within)
        except ChildHung:
            await self.close()
            raise ChildHung(f"{what} took more than {within:g} seconds") from None
        except ChildFailed:
            await self.close()
            raise
        if received is None:
            raise ChildFailed(ending(await self.close(END_SECONDS)))
        return received

    def _take(self) -> Received | None:
        try:
            data, ancillary, flags, _ = self._control.recvmsg(LARGEST, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return None
        # If we have too many descriptors open, the message comes without its own, and the connection is closed already.
        connection = next((_socket(int.from_bytes(fd, sys.byteorder)) for _, _, fd in ancillary if fd), None)
        try:
            message = json.loads(data) if data else None
        except (ValueError, RecursionError):
            message = ()
        if isinstance(message, dict) and not flags & socket.MSG_TRUNC:
            return message, connection
        if connection is not None:
            connection.close()
        if message is None:
            return None
        raise ChildFailed("it has sent an invalid message")

    async def close(self, leave: float = 0.0) -> int:
        """End the child at once, or after ``leave`` seconds to exit by itself; return the exit status."""
        self._control.close()
        with anyio.CancelScope(shield=True):
            if leave:
                await anyio.to_thread.run_sync(self._wait, leave)
            if self._process.poll() is None:
                self._process.kill()
                await anyio.to_thread.run_sync(self._wait, END_SECONDS)
        return self._process.returncode or 0

    def _wait(self, seconds: float) -> None:
        with suppress(TimeoutExpired):
            self._process.wait(seconds)


def _socket(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise ChildFailed("it has passed on something that is not a connection") from None


def ending(status: int) -> str:
    """Describe an exit status for people."""
    if status >= 0:
        return f"the process of Ziti's library ended by itself (status {status})"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"it was killed ({name})" if -status == signal.SIGKILL else f"Ziti's library crashed ({name})"

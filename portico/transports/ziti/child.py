"""One run of the listener process: its start, what it says, its end."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from portico.transports.ziti.failures import ListenerFailed
from portico.transports.ziti.listener.control import MESSAGE_BYTES, Task, encode, encode_task
from portico.transports.ziti.output import Output

SILENCE_SECONDS = 15.0
"""A listener that says nothing for so long is stuck as a whole; where only the library is, it tells."""
LEAVE_SECONDS = 3.0
KILL_SECONDS = 3.0

Received = tuple[dict[str, Any], socket.socket | None]


class Child:
    """Close it in any case: nothing is left of it then."""

    def __init__(self, process: Popen[bytes], control: socket.socket) -> None:
        assert process.stdout is not None  # noqa: S101
        self.pid = process.pid
        self._process = process
        self._control = control
        self._output = Output(process.stdout)

    @classmethod
    def start(cls, task: Task, environment: Mapping[str, str]) -> Self:
        """Start it. From the thread that lives as long as the server: it dies with its parent thread."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = theirs.fileno(), os.getpid()
        with theirs:
            ours.setblocking(False)
            try:
                process = Popen(
                    # Not from the working directory: what it imports is what the server itself would.
                    [sys.executable, "-P", "-s", "-m", f"{__package__}.listener", *map(str, arguments)],
                    pass_fds=[theirs.fileno()],
                    stdin=DEVNULL,
                    stdout=PIPE,
                    stderr=STDOUT,
                    bufsize=0,
                    cwd="/",
                    env={**environment, "HOME": "/", "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise ListenerFailed(f"the listener can't be started: {error}") from error
        child = cls(process, ours)
        child._send(encode_task(task))
        return child

    @property
    def last_words(self) -> str:
        return self._output.last_line

    async def drain(self) -> None:
        """Take what the library writes. Belongs into a task group right after the start."""
        await self._output.drain()

    async def receive(self) -> Received | None:
        """The next message, and the connection that came with it; None once the listener has ended. May be cancelled.

        Raises `ListenerFailed` for what no listener says, or where it says nothing for `SILENCE_SECONDS`.
        """
        await anyio.lowlevel.checkpoint()
        deadline = anyio.current_time() + SILENCE_SECONDS
        while True:
            late = anyio.current_time() >= deadline
            with suppress(BlockingIOError):
                return self._take()
            if late:  # looked at before, because it may have been us who had no time
                raise ListenerFailed(f"the listener has hung: nothing for {SILENCE_SECONDS:g} s")
            with anyio.move_on_after(deadline - anyio.current_time()):
                await anyio.wait_readable(self._control)

    def _take(self) -> Received | None:
        try:
            data, ancillary, flags, _ = self._control.recvmsg(
                MESSAGE_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return None
        # Without its descriptor, where we have too many open, the connection is closed already.
        descriptors = [int.from_bytes(data[:4], sys.byteorder) for _, _, data in ancillary if len(data) >= 4]
        connection = socket.socket(fileno=descriptors[0]) if descriptors else None
        try:
            message = json.loads(data) if data else None
        except ValueError:
            message = {}
        if isinstance(message, dict) and isinstance(message.get("type"), str) and not flags & socket.MSG_TRUNC:
            return message, connection
        if connection is not None:
            connection.close()
        if message is None:
            return None
        raise ListenerFailed("the listener has said what it never says")

    def refuse(self) -> None:
        """Tell it to accept no more connections; those that there are go on."""
        self._send(encode({"type": "stop"}))

    async def close(self) -> int:
        """Let it send what connections have still to send, and end it; the exit status."""
        self._control.close()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._wait, LEAVE_SECONDS)
        return await self.kill()

    async def kill(self) -> int:
        """End it at once; the exit status."""
        self._control.close()
        with anyio.CancelScope(shield=True):
            if self._process.poll() is None:
                self._process.kill()
                await anyio.to_thread.run_sync(self._wait, KILL_SECONDS)
        self._output.close()
        return self._process.returncode or 0

    def _wait(self, seconds: float) -> None:
        with suppress(TimeoutExpired):
            self._process.wait(seconds)

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # it has gone, which `receive` tells
            self._control.send(message)

"""A parent's side of a child that has libziti loaded: it may hang, crash, or say anything."""

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
"""For a child that was killed, or has closed its end, to be gone."""

Received = tuple[dict[str, Any], socket.socket | None]


class ChildFailed(Exception):
    """The child has crashed, ended, or can't be started. Its text is for people."""


class ChildHung(ChildFailed):
    pass


class Child:
    """``python -m MODULE FD PARENT ARGUMENTS``, where FD is its `ChildControl`'s. Close it in any case.

    It has a session of its own, so Ctrl-C is not its business. It dies with the thread that has started it.
    """

    def __init__(self, process: Popen[bytes], control: socket.socket) -> None:
        self.pid = process.pid
        self._process = process
        self._control = control

    @classmethod
    def start(cls, module: str, *arguments: str, environment: Mapping[str, str], output: int = DEVNULL) -> Self:
        """``environment`` is the library's; ZITI_IDENTITIES has no place in it, as those are loaded on import.

        ``output`` is where it writes to, as `Popen` has it. Raises `ChildFailed`.
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
                    # Not from the working directory: what it imports is what we would import.
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
        with suppress(OSError):  # it has gone, which `receive` tells
            self._control.send(encode(message))

    async def receive(self, within: float) -> Received | None:
        """The next message, and the connection that came with it; None once the child has ended. May be cancelled.

        Raises `ChildHung` where nothing comes for so many seconds, `ChildFailed` for what is no message.
        """
        await anyio.lowlevel.checkpoint()
        deadline = anyio.current_time() + within
        while True:
            late = anyio.current_time() >= deadline
            with suppress(BlockingIOError):
                return self._take()
            if late:  # looked at before, because it may have been us who had no time
                raise ChildHung(f"nothing for {within:g} s")
            with anyio.move_on_after(deadline - anyio.current_time()):
                await anyio.wait_readable(self._control)

    async def answer(self, within: float, what: str) -> Received:
        """As `receive`, for a child that is asked: it is ended where it does not answer. ``what`` it was asked for."""
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
        # Without its descriptor, where we have too many open, the connection is closed already.
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
        raise ChildFailed("it has said what it never says")

    async def close(self, leave: float = 0.0) -> int:
        """End it, at once or once it has had so many seconds to leave by itself; the exit status."""
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
        raise ChildFailed("it has passed on what is no connection") from None


def ending(status: int) -> str:
    """What an exit status says, for people."""
    if status >= 0:
        return f"the process of Ziti's library ended by itself (status {status})"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"it was killed ({name})" if -status == signal.SIGKILL else f"Ziti's library crashed ({name})"

"""A parent's side of a child that has libziti loaded: it may hang, crash, or answer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import anyio
from anyio.abc import Process

from portico.ziti.control import LARGEST

END_SECONDS = 5.0
"""For a child that has closed its socket, or was killed, to be gone."""


class ChildFailed(Exception):
    """The child has crashed, hung or ended, and is gone. Its text is for people."""


class ChildHung(ChildFailed):
    pass


class Child:
    """``python -m MODULE FD ARGUMENTS``, where FD is its `Control`'s. It lives until `close`, at most as long as we do.

    It has a session of its own, so Ctrl-C is not its business, and neither its output nor its input is anybody's.
    """

    def __init__(self, process: Process, control: socket.socket) -> None:
        self._process = process
        self._control = control

    @classmethod
    async def start(cls, module: str, *arguments: str, environment: Mapping[str, str]) -> Child:
        """``environment`` is the library's; ZITI_IDENTITIES has no place in it, as those are loaded on import."""
        further = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            with theirs:
                process = await anyio.open_process(
                    # Not from the working directory: what it imports is what we would import.
                    [sys.executable, "-P", "-s", "-m", module, str(theirs.fileno()), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={**environment, **further},
                    start_new_session=True,
                    pass_fds=[theirs.fileno()],
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, ours)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Raises `ChildFailed`."""
        try:
            self._control.send(json.dumps(message).encode())  # short, and it is read before the next one is sent
        except OSError:
            raise ChildFailed(await self._ending()) from None

    async def receive(self, within: float, what: str) -> tuple[dict[str, Any], socket.socket | None]:
        """The next message, and the connection that came with it. After ``within`` seconds ``what`` has hung.

        Raises `ChildFailed`.
        """
        with anyio.move_on_after(within):
            await anyio.wait_readable(self._control)
            data, fds, _, _ = socket.recv_fds(self._control, LARGEST, 1, socket.MSG_CMSG_CLOEXEC)
            if not data:
                raise ChildFailed(await self._ending())
            return json.loads(data), socket.socket(fileno=fds[0]) if fds else None
        await self.close()
        raise ChildHung(f"{what} took more than {within:g} seconds")

    async def close(self) -> None:
        """Kill it; it has nothing to lose."""
        with anyio.CancelScope(shield=True):
            self._control.close()
            if self._process.returncode is None:
                self._process.kill()
            await self._process.aclose()

    async def _ending(self) -> str:
        with anyio.move_on_after(END_SECONDS):
            await self._process.wait()
        await self.close()
        status = self._process.returncode
        if status is not None and status < 0:
            return f"libziti crashed ({signal.Signals(-status).name})"
        return f"the process that runs libziti ended by itself (status {status})"

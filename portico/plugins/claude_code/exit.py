"""The exit of a child."""

from __future__ import annotations

import contextlib
import os
from subprocess import Popen

import anyio

_POLL = 0.05  # seconds


class Exit:
    """A wait for a child's exit, for any number of tasks.

    It uses a pidfd if there is one (Linux), without a signal handler or a thread, on any loop. Otherwise it polls.
    """

    def __init__(self, child: Popen[bytes]) -> None:
        self._child = child
        self._waiting = anyio.Lock()
        self._pidfd: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(child.pid)

    @property
    def status(self) -> int | None:
        """The exit status, as in `subprocess.Popen.returncode`, and up to date."""
        status: int | None = self._child.poll()
        return status

    async def wait(self) -> int:
        """Wait for the exit, and return its status. May be cancelled, and called again."""
        async with self._waiting:
            while (status := self.status) is None:
                if self._pidfd is None:
                    await anyio.sleep(_POLL)
                else:
                    await anyio.wait_readable(self._pidfd)
            self._close()
        return status

    def _close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

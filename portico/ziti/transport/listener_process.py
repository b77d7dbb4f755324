"""One run of the listener process: its start, its messages, its end."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from subprocess import PIPE, Popen
from typing import Self

from portico.ziti.listener.listener_control import Task, encode_task
from portico.ziti.native.library_process import Child, ChildFailed, ChildHung, Received
from portico.ziti.transport.network_failures import NEVER_SAID, ListenerFailed
from portico.ziti.transport.output import Output

SILENCE_SECONDS = 15.0
"""A listener that is silent for so long is stuck as a whole; if only the library is stuck, the listener reports it."""
LEAVE_SECONDS = 3.0
"""The time for the listener to send the remaining data of connections."""


class ListenerProcess(Child):
    """The listener process. Its messages are those of `portico.ziti.listener.listener_control`."""

    def __init__(self, process: Popen[bytes], control: socket.socket) -> None:
        super().__init__(process, control)
        assert process.stdout is not None  # noqa: S101
        self._output = Output(process.stdout)

    @classmethod
    def listen(cls, task: Task, environment: Mapping[str, str]) -> Self:
        """Start a listener. Raises `ListenerFailed`."""
        try:
            listener = cls.start("portico.ziti.listener", environment=environment, output=PIPE)
        except ChildFailed as failure:
            raise ListenerFailed(f"the listener has failed: {failure}") from failure
        listener.send(encode_task(task))
        return listener

    @property
    def last_words(self) -> str:
        return self._output.last_line

    async def drain(self) -> None:
        """Read the library's output. Run this in a task group right after the start."""
        await self._output.drain()

    async def hear(self) -> Received | None:
        """Receive like `receive`. Raises `ListenerFailed` for an invalid message, and if none comes for too long."""
        try:
            received = await self.receive(SILENCE_SECONDS)
        except ChildHung as hung:
            raise ListenerFailed(f"the listener has hung: {hung}") from hung
        except ChildFailed as failure:
            raise ListenerFailed(f"the listener has failed: {failure}") from failure
        if received is not None and not isinstance(received[0].get("type"), str):
            if received[1] is not None:
                received[1].close()
            raise ListenerFailed(NEVER_SAID)
        return received

    def refuse(self) -> None:
        """Tell it to accept no more connections; open ones go on."""
        self.send({"type": "stop"})

    def rebind(self, service: str) -> None:
        """Tell it that the binding of a service is lost."""
        self.send({"type": "rebind", "service": service})

    async def close(self, leave: float = 0.0) -> int:
        try:
            return await super().close(leave)
        finally:
            self._output.close()

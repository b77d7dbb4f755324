"""The listener's end of its connection with the server, which carries JSON messages and descriptors.

The server sends a `Task`, and later perhaps ``{"type": "stop"}``: accept no more, and ``{"type": "rebind", "service":
STR}``: this binding is lost without a word. Once the server closes its end, the listener ends. The listener sends:

    {"type": "version", "library": STR}                 the version that was loaded
    {"type": "binding", "service": STR}
    {"type": "bound", "service": STR}
    {"type": "refused", "service": STR, "kind": STR, "text": STR, "hung"?: BOOL}  not bound; it is tried again
    {"type": "lost", "service": STR, "text": STR}       not bound any more; it is tried again, others go on
    {"type": "ready"}                                   each service had its try
    {"type": "connection", "service": STR, "caller": STR}             with its descriptor
    {"type": "alive"}                                   every `HEARTBEAT_SECONDS`
    {"type": "failed", "step": STR, "service"?: STR, "kind"?: STR, "hung"?: BOOL, "text": STR}  the last one
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from portico.ziti.native.child_control import ChildControl, Message
from portico.ziti.native.limits import DIAL_SECONDS, LOAD_SECONDS

HEARTBEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """The task of a listener, and of the probes. ``identity`` is a file.

    The server answers a GET of ``probe_path`` to anybody: a probe. The rest are seconds: after ``load``, ``bind`` and
    ``dial`` the step counts as hung; ``probe`` is the time between two probes of a service; after ``spin`` work without
    effect counts as spinning.
    """

    identity: str
    services: tuple[str, ...]
    probe_path: str
    load: float = LOAD_SECONDS
    bind: float = 20.0
    dial: float = DIAL_SECONDS
    probe: float = 30.0
    spin: float = 20.0


def encode_task(task: Task) -> Message:
    return asdict(task)


class ListenerControl(ChildControl):
    """The listener's end. `tell` and `hand_over` raise OSError once the server has gone."""

    def receive_task(self) -> Task | None:
        if (message := self.receive()) is None:
            return None
        return Task(**{**message, "services": tuple(message["services"])})

    def tell(self, message: str, **fields: Any) -> None:
        self.send({"type": message, **fields})

    def beat(self) -> None:
        """Report that the listener is alive. A busy server may miss one report."""
        with suppress(BlockingIOError):
            self.send({"type": "alive"}, flags=socket.MSG_DONTWAIT)

    def hand_over(self, descriptor: int, service: str, caller: str) -> None:
        """Send a connection. The caller still has to close its own descriptor."""
        self.send({"type": "connection", "service": service, "caller": caller}, passing=descriptor)

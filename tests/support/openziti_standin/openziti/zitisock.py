"""Sockets of the library's."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from . import zitilib


class ZitiSocket(socket.socket):
    def __init__(
        self,
        af: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
        opts: object = None,
    ) -> None:
        zitilib.init()
        self._zitifd: int | None = None
        if not fileno:
            fileno = self._zitifd = zitilib.ziti_socket(socket.SOCK_STREAM if type == -1 else type)
        super().__init__(af, type, proto, fileno)

    def listen(self, backlog: int = 5, /) -> None:
        try:
            zitilib.listen(self._zitifd or -1, backlog)
        except Exception:
            super().listen(backlog)

    def accept(self) -> tuple[ZitiSocket, Any]:
        fd, peer = zitilib.accept(self.fileno())
        return ZitiSocket(type=socket.SOCK_STREAM, fileno=fd), peer

    def close(self) -> None:
        if zitilib.EARLY or self._zitifd is None:
            super().close()
        elif self.fileno() >= 0:
            zitilib.ziti_close(self.detach())

    def getsockname(self) -> Any:
        return ("127.0.0.1", 0)

    def setsockopt(self, *arguments: Any) -> None:
        with suppress(Exception):
            super().setsockopt(*arguments)

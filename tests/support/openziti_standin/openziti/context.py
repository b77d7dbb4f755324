"""An identity that is loaded."""

from __future__ import annotations

import logging
import os
import socket

from . import zitilib, zitisock


class ZitiContext:
    def __init__(self, ctx: int | None) -> None:
        if not isinstance(ctx, int):
            raise TypeError("ctx is not a valid python void pointer type")
        self._ctx = ctx

    def connect(self, addr: str, terminator: str | None = None, timeout: float | None = None) -> socket.socket:
        if not isinstance(addr, str):
            raise TypeError(f"unsupported address {addr}")
        fd = zitilib.ziti_socket(socket.SOCK_STREAM)
        if zitilib.EARLY:
            zitilib.connect(fd, self._ctx, addr)  # which fails without a terminator, and there is no way to give one
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
        zitilib.connect(fd, self._ctx, addr, terminator)
        connected = zitisock.ZitiSocket(type=socket.SOCK_STREAM, fileno=fd)
        connected.settimeout(timeout)
        return connected

    def bind(
        self, service: str, terminator: str | None = None, sock: zitisock.ZitiSocket | None = None
    ) -> zitisock.ZitiSocket:
        sock = sock or zitisock.ZitiSocket(type=socket.SOCK_STREAM)
        zitilib.bind(sock.fileno(), self._ctx, service, terminator)
        return sock


def _check(path: str) -> None:
    if not isinstance(path, str):
        raise TypeError("path must be a string")
    if not os.path.exists(path):
        raise ValueError(f"{path} is not a valid path")


def load_early(path: str) -> ZitiContext:
    _check(path)
    return ZitiContext(zitilib.load(path))


def load_later(path: str, timeout: int = 0) -> tuple[ZitiContext, int]:
    _check(path)
    handle, code = zitilib.load(path, timeout)
    if code:
        logging.warning("Failed to load Ziti Identity from %s: %s", path, zitilib.errorstr(code))
    return ZitiContext(handle), code

"""Connections to a server that is on a Ziti network: an httpx transport, and the child that dials for it."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx
from anyio.abc import SocketStream, UNIXSocketStream

from portico.ziti.identity import IdentityError, check_identity
from portico.ziti.native.library_process import Child, ChildFailed
from portico.ziti.native.limits import DIAL_SECONDS, LOAD_SECONDS, MARGIN


@dataclass(frozen=True, slots=True)
class Overlay:
    """A service to dial, with the identity in a file. ``environment`` is the dialling child's."""

    identity: Path
    service: str
    environment: Mapping[str, str] = field(repr=False)


class DialFailed(Exception):
    """A dial has failed. The text is for people."""


class OverlayDialler:
    """Dials, one at a time, through a child, which is started on demand and killed if it does not answer.

    The child carries all connections that it has dialled: they break when it ends.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._lock = anyio.Lock()
        self._child: Child | None = None
        self._number = 0

    async def start(self) -> None:
        """Load the identity. Raises `DialFailed`."""
        async with self._lock:
            await self._loaded()

    async def dial(self) -> socket.socket:
        """Return a connection to the service. Raises `DialFailed`."""
        async with self._lock:
            child = await self._loaded()
            self._number += 1
            try:
                child.send({"dial": self._number, "service": self._overlay.service})
                while True:
                    what = f"dialling the service {self._overlay.service}"
                    answer, connection = await child.answer(DIAL_SECONDS + MARGIN, what)
                    if answer["dialled"] == self._number:
                        break
                    if connection is not None:  # for a caller that was cancelled while it waited
                        connection.close()
            except ChildFailed as error:
                self._child = None
                raise DialFailed(str(error)) from None
        if connection is None:
            raise DialFailed(answer["failed"])
        return connection

    async def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.close()

    async def _loaded(self) -> Child:
        if self._child is not None:
            return self._child
        try:
            check_identity(self._overlay.identity)
            arguments = (str(self._overlay.identity),)
            child = Child.start("portico.ziti.dialling_process", *arguments, environment=self._overlay.environment)
            try:
                answer, _ = await child.answer(LOAD_SECONDS + MARGIN, f"logging in with {self._overlay.identity}")
            except BaseException:
                await child.close()
                raise
        except (IdentityError, ChildFailed) as error:
            raise DialFailed(str(error)) from None
        if "failed" in answer:
            await child.close()
            raise DialFailed(f"{self._overlay.identity}: {answer['failed']}")
        self._child = child
        return child


def transport(dialler: OverlayDialler) -> httpx.AsyncHTTPTransport:
    """Make a transport whose connections all lead to the dialler's service, whatever the host of a URL."""
    made = httpx.AsyncHTTPTransport()
    made._pool = httpcore.AsyncConnectionPool(  # httpx has no option for it; the limits are its own
        network_backend=_Backend(dialler), max_connections=100, max_keepalive_connections=20, keepalive_expiry=5
    )
    return made


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, dialler: OverlayDialler) -> None:
        self._dialler = dialler

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore requires it; the dialler has its own limits
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            dialled = await self._dialler.dial()
        except DialFailed as error:
            raise httpcore.ConnectError(str(error)) from None
        kind = UNIXSocketStream if dialled.family == socket.AF_UNIX else SocketStream
        try:
            return _Stream(await kind.from_socket(dialled), dialled)
        except (ValueError, OSError):
            dialled.close()
            raise _ended() from None


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: SocketStream, raw: socket.socket) -> None:
        self._stream = stream
        self._raw = raw
        self._answered = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            with anyio.fail_after(timeout):
                received = await self._stream.receive(max_bytes)
            self._answered = True
            return received
        except anyio.EndOfStream:
            if not self._answered:
                raise _ended() from None
            return b""
        except TimeoutError:
            raise httpcore.ReadTimeout("no answer") from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise (httpcore.ReadError("the connection broke") if self._answered else _ended()) from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            with anyio.fail_after(timeout):
                await self._stream.send(buffer)
        except TimeoutError:
            raise httpcore.WriteTimeout("nothing is taken") from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise httpcore.WriteError("the connection broke") from None

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # true if an idle connection has ended: nothing else can arrive on it
            poll = select.poll()
            poll.register(self._raw, select.POLLIN)
            return bool(poll.poll(0))
        return None


def _ended() -> httpcore.ConnectError:
    """Make the error for an early end: openziti 1.x dials a service that nobody has bound, and ends the connection."""
    return httpcore.ConnectError("the connection ended before any answer: has a server bound the service?")

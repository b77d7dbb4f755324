"""OpenZiti's Python package, in both of its shapes, for what a child of ours does with it.

The shapes are those of 0.6.0 (``load(path)`` → context), the newest that there is as a wheel, and of 1.x
(``load(path, timeout)`` → context and error code).
"""

from __future__ import annotations

import fcntl
import inspect
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from typing import Any

FIRST_NUMBER = 200
"""Of the descriptors that are given to the library; few others come so far."""
NOT_INSTALLED = "openziti is not installed: pip install 'portico[ziti]'"

# Error codes differ between versions, their texts do not, but for their case.
_MEANINGS = {
    "service not available": "the network has no such service, or this identity may not dial it",
    "wtf: programming error": "this identity may not dial it",  # 0.6.0's, where there is no Dial permission
    "connection is closed": "no server has bound it",
    "ziti controller is not available": "the controller can't be reached",
    "ziti edge router is not available": "no edge router can be reached",
    "operation did not complete in time": "neither the controller nor an edge router has answered in time",
    "not authorized": "the controller does not know this identity, or no longer lets it in",
    "failed to authenticate": "the controller does not know this identity, or no longer lets it in",
    "configuration is invalid": "libziti does not take this identity",
    "jwt not accepted by controller": "the controller does not accept the token: it was used already, or withdrawn",
    "jwt has invalid format": "it is no enrolment token",
    "jwt verification failed": "the token is not signed by the controller that it names",
    "connection to edge router terminated": "the edge router has ended the connection",
}


class LibraryFailed(Exception):
    """The library has refused. Its text is for people."""


class Library:
    def __init__(self) -> None:
        try:
            import openziti  # type: ignore[import-untyped,unused-ignore]
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == "openziti"
            raise LibraryFailed(NOT_INSTALLED if missing else f"openziti can't be loaded: {error}") from None
        self._module: Any = openziti
        self._low: Any = openziti.zitilib
        self._timed = "timeout" in inspect.signature(openziti.load).parameters
        self._context: Any = None
        self._numbers = cycle(range(FIRST_NUMBER, FIRST_NUMBER + 500))

    def load(self, identity: str, seconds: float) -> None:
        """Log in with the identity in a file. Where the library takes no time limit, it may hang instead.

        After a failure it is of no more use: with 0.6.0 a second try hangs.
        """
        try:
            if self._timed:
                self._context, code = self._module.load(identity, timeout=int(seconds * 1000))
            else:
                self._context, code = self._module.load(identity), 0
        except TypeError as error:
            # 0.6.0 has a null pointer for whatever failed, of which its wrapper says that it is no pointer.
            code = int(self._low._ziti_lasterr())
            raise LibraryFailed(self._meaning(code) if code else str(error)) from None
        except Exception as error:
            raise LibraryFailed(_words(error)) from None
        if code:
            raise LibraryFailed(self._meaning(code))

    def dial(self, service: str) -> socket.socket:
        fd = self._socket()
        try:
            # Not the context's own `connect`: with 0.6.0 it always raises TypeError, and loses a descriptor.
            if self._low._ziti_connect(fd, self._context._ctx, service.encode(), None):
                self._low.check_error(-1)
        except Exception as error:
            with suppress(OSError):
                os.close(fd)
            _hold_descriptor_0()
            raise LibraryFailed(_words(error)) from None
        _without_delay()
        _close_twins(fd)
        return socket.socket(fileno=fd)

    def _socket(self) -> int:
        """Under a number that no connection had lately: the library goes by numbers, and is slow to forget one."""
        given = self._low.ziti_socket(socket.SOCK_STREAM)
        if given < 0:
            raise LibraryFailed("there are too many open files")
        try:
            return fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, next(self._numbers))
        finally:
            os.close(given)

    def _meaning(self, code: int) -> str:
        return meaning(str(self._low.errorstr(code)))

    def enroll(self, token: str) -> str:
        """Trade a token for an identity, which is JSON, with a new private key in it."""
        try:
            identity: str = self._module.enroll(token)
        except Exception as error:
            raise LibraryFailed(_words(error)) from None
        return identity


def meaning(text: str) -> str:
    """What a text of the library's says, for people."""
    return _MEANINGS.get(text.lower(), text)


def _words(error: Exception) -> str:
    text = str(error.args[-1]) if error.args else type(error).__name__
    return meaning(text)


def _hold_descriptor_0() -> None:
    """In 0.6.0 a dial that fails closes descriptor 0: what came to be that one would be closed by the next failure."""
    try:
        os.fstat(0)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _close_twins(fd: int) -> None:
    """0.6.0 keeps its own descriptor of what it gives us: with that open, the end of the stream would never be seen."""
    own = os.fstat(fd).st_ino
    for number, inode in _sockets():
        if inode == own and number != fd:
            with suppress(OSError):
                os.close(number)


def _without_delay() -> None:
    """1.x leaves Nagle's algorithm on towards its routers, which costs 42 ms a request."""
    for number, _ in _sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as found:
            if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _sockets() -> Iterator[tuple[int, int]]:
    """Number and inode of each of this process's own, those of the library included."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it has been closed since
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino

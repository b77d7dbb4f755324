"""A network of this machine's own that has nothing in it but loopback, where the system lets us make one."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # <linux/sockios.h>, <linux/if.h>
_CURRENT = "/proc/thread-self/ns/net"


class Namespace:
    """``handle`` keeps the network namespace there while nobody is in it; None is the network that we are in anyway."""

    def __init__(self, handle: int | None) -> None:
        self.handle = handle

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Meanwhile the calling thread is in there, and so is every process and thread that it starts.

        A process's other threads stay where they are, and so does a socket that is already there.
        """
        if self.handle is None:
            yield
            return
        before = os.open(_CURRENT, os.O_RDONLY)
        try:
            _enter(self.handle)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)


@contextmanager
def loopback_namespace() -> Iterator[Namespace]:
    """One with loopback only. Root may make one, also the root of `unshare -r`; for others it is the usual network."""
    before = os.open(_CURRENT, os.O_RDONLY)
    try:
        try:
            _call("unshare", _CLONE_NEWNET)
        except PermissionError:
            yield Namespace(None)
            return
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
            handle = os.open(_CURRENT, os.O_RDONLY)
        finally:
            _enter(before)
        try:
            yield Namespace(handle)
        finally:
            os.close(handle)
    finally:
        os.close(before)


def _enter(handle: int) -> None:
    _call("setns", handle, _CLONE_NEWNET)


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # Python has these two since 3.12
    if getattr(libc, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")

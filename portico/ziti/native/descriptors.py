"""The open sockets of this process, including those of Ziti's library."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import stat
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress

MANY = 65536
_FOLDER = "/proc/self/fd"
_TCP_INFO_BYTES = 136
_BYTES_ACKED = 120  # the offset of tcpi_bytes_acked, before tcpi_bytes_received, in struct tcp_info (linux/tcp.h)


def allow_many() -> int:
    """Raise the limit on open descriptors to `MANY`, if allowed; return it. Each connection takes one or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [MANY if each == resource.RLIM_INFINITY else each for each in (soft, hard)]
    many = min(max(MANY, limits[0]), limits[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (many, hard))
    return min(many, MANY)


def close_twins(descriptor: int) -> None:
    """Close all other descriptors of the same socket."""
    inode = os.fstat(descriptor).st_ino
    for other, status in _sockets():
        if status.st_ino == inode and other != descriptor:
            with suppress(OSError):
                os.close(other)


def under_way() -> int:
    """Count the bytes that are still to be read here, or to be acknowledged by the other end of a TCP connection."""
    waiting = 0
    for copy in _copies():
        with suppress(OSError):
            waiting += _asked(copy, termios.FIONREAD)
            if copy.family != socket.AF_UNIX:
                waiting += _asked(copy, termios.TIOCOUTQ)
    return waiting


def hurry() -> int:
    """Set TCP_NODELAY on all TCP connections; return the bytes that they have carried so far, both ways."""
    carried = 0
    for copy in _copies():
        if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM:
            with suppress(OSError):
                copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                carried += sum(struct.unpack_from("=QQ", info, _BYTES_ACKED))
    return carried


def _asked(copy: socket.socket, request: int) -> int:
    return int.from_bytes(fcntl.ioctl(copy, request, bytes(4)), sys.byteorder)


def _sockets() -> Iterator[tuple[int, os.stat_result]]:
    for name in os.listdir(_FOLDER):
        with suppress(OSError):  # it has been closed since
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status


def _copies() -> Iterator[socket.socket]:
    # Copies, because the library may close its descriptor at any time, and the number be used again.
    for descriptor, _ in _sockets():
        try:
            copy = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            continue
        with copy:
            yield copy

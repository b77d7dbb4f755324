"""Listening sockets that a service manager has opened for the server (socket activation, sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence

from portico.transports.base import TransportFailed
from portico.transports.listen import is_local, url_of

NamedSocket = tuple[str, socket.socket]

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def take_over(descriptors: Iterable[tuple[int, str]]) -> tuple[NamedSocket, ...]:
    """Return the sockets that these ``descriptors`` are, each with its name; no child inherits them.

    Raises `TransportFailed` if one is no listening stream socket; then all stay open.
    """
    found = []
    for descriptor, name in descriptors:
        try:
            taken = socket.socket(fileno=descriptor)
        except OSError as error:
            raise _useless(descriptor, name, error.strerror or str(error)) from error
        found.append((name, taken))
        if taken.family not in _FAMILIES or taken.type != socket.SOCK_STREAM:
            reason = "it is no stream socket of TCP or Unix"
        elif not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            reason = "it does not listen (a unit with Accept=yes passes on single connections)"
        else:
            os.set_inheritable(descriptor, False)
            continue
        for _, each in found:
            each.detach()
        raise _useless(descriptor, name, reason)
    return tuple(found)


def of_transport(sockets: Iterable[NamedSocket], own: str, others: Sequence[str]) -> list[socket.socket]:
    """Return the sockets for the transport ``own``: all but those that are named after one of the ``others``."""
    return [each for name, each in sockets if name == own or name not in others]


def listening_at(listener: socket.socket) -> str:
    """Return ``http://HOST:PORT``, or ``unix:PATH``; an abstract socket has a path that begins with ``@``."""
    place = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:@{os.fsdecode(place[1:])}" if isinstance(place, bytes) else f"unix:{place}"
    return url_of(host_of(listener), place[1])


def host_of(listener: socket.socket) -> str:
    """Return the IP address that a TCP socket listens on."""
    return str(listener.getsockname()[0]).partition("%")[0]


def check_loopback(sockets: Iterable[socket.socket]) -> None:
    """Raise `TransportFailed` if others than this machine's own programs could reach one of ``sockets``."""
    for each in sockets:
        if each.family != socket.AF_UNIX and not is_local(host_of(each)):
            raise TransportFailed(f"with auth=none anybody could use the server at {listening_at(each)}")


def _useless(descriptor: int, name: str, reason: str) -> TransportFailed:
    return TransportFailed(f"cannot listen on descriptor {descriptor} ({name}), which LISTEN_FDS passes on: {reason}")

"""Listening sockets; if one can't be opened, the error says why in one sentence."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import anyio

from portico.transports.base import TransportFailed

BACKLOG = 1024

_REASONS = {
    errno.EADDRINUSE: "the address is in use",
    errno.EACCES: "that is not permitted",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.ENOENT: "the folder does not exist",
}


async def listen_tcp(host: str, port: int, *, loopback_only: bool = False) -> tuple[list[socket.socket], str]:
    """Return sockets bound to every address of ``host``, all on one port, and the URL. Raises `TransportFailed`."""
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise TransportFailed(f"cannot listen on {host}: the name is not known ({error.strerror})") from error
    if loopback_only:
        for *_, address in found:
            if not is_local(address[0]):
                raise TransportFailed(f"{host} is {address[0]} here, where with auth=none anybody could use the server")
    sockets: list[socket.socket] = []
    refusals: list[OSError] = []
    with ExitStack() as stack:
        for family, _, _, _, address in found:
            try:
                sockets.append(stack.enter_context(_bind(family, (address[0], port, *address[2:]))))
            except OSError as error:
                # `localhost` often resolves to ::1 too, even on machines without IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise _failed(f"{host}:{port}", error) from error
                refusals.append(error)
            else:
                port = sockets[0].getsockname()[1]
        if not sockets:
            raise _failed(f"{host}:{port}", refusals[0]) from refusals[0]
        stack.pop_all()
    return sockets, url_of(host, port)


def url_of(host: str, port: int) -> str:
    """Return ``http://HOST:PORT``; an IPv6 address is put in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    # The protocol is explicit: with 0 asyncio leaves Nagle's algorithm on, and small events wait for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # at once: if two servers have bound, the second fails here
    except OSError:
        listener.close()
        raise
    return listener


def is_local(address: str) -> bool:
    """Tell whether only this machine's own programs reach an IP address, which may have a zone (``%lo``)."""
    return ip_address(address.partition("%")[0]).is_loopback


@dataclass(frozen=True, slots=True)
class SocketAccess:
    """The users who may connect to a Unix socket: its mode, and its group by name or number.

    Without a ``group`` it is this process's own.
    """

    mode: int = 0o660
    group: str | None = None

    def give(self, path: Path) -> None:
        """Give a new socket to them. Raises `TransportFailed`, OSError."""
        group = self.group or str(os.getegid())  # the folder may have another one, for all that is made in it
        try:
            shutil.chown(path, group=int(group) if group.isdecimal() else group)
        except (LookupError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else "there is no such group"
            reason = "the server's user is not in it" if isinstance(error, PermissionError) else reason
            raise TransportFailed(f"cannot listen on {path} for the group {group}: {reason} (uds_group)") from error
        path.chmod(self.mode)


@contextmanager
def listen_unix(path: Path, access: SocketAccess | None = None) -> Iterator[socket.socket]:
    """Listen on a Unix socket at ``path``, and remove it at the end. Raises `TransportFailed`.

    At no time may others connect than those of ``access`` (mode 0660 by default). The socket of a dead server is
    replaced; that of a live one, or any other file, is left alone.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _remove_stale(path)
            with suppress(OSError):  # Linux makes the file with this mode, less the umask; elsewhere that is no call
                os.fchmod(listener.fileno(), 0)
            listener.bind(str(path))
            bound = path.lstat()
        except OSError as error:
            raise _failed(str(path), error) from error
        try:
            try:
                (access or SocketAccess()).give(path)
                listener.listen(BACKLOG)  # only now: before, nobody can connect
            except OSError as error:
                raise _failed(str(path), error) from error
            yield listener
        finally:
            _remove(path, bound)


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise TransportFailed(f"cannot listen on {path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # it is busy, so a server is alive
    raise TransportFailed(f"cannot listen on {path}: another server does")


def _remove(path: Path, bound: os.stat_result) -> None:
    """Remove our socket, but not one that another server may have put there by now."""
    try:
        if os.path.samestat(path.lstat(), bound):
            path.unlink()
    except FileNotFoundError:
        pass


def _failed(where: str, error: OSError) -> TransportFailed:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return TransportFailed(f"cannot listen on {where}: {reason}")

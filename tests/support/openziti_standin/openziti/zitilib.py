"""The C part of the real library: everything runs on a thread of its own, and each caller waits for it in C.

So a wait lets other threads run and no Python signal handler, and nothing ends it but the library. Like the real one
it goes by the numbers of descriptors, and remembers them until their connection is closed from the other side.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

Message = dict[str, Any]

EARLY = os.environ.get("ZITI_STANDIN_SHAPE", "0.6") == "0.6"

INVALID_CONFIG, AUTHENTICATION_FAILED = -13, -14
CONTROLLER_UNAVAILABLE, TIMEOUT, INVALID_STATE = (-15, -19, -21) if EARLY else (-16, -20, -22)

_TEXTS = (
    {
        0: "OK",
        -13: "Configuration is invalid",
        -14: "Not Authorized",
        -15: "Ziti Controller is not available",
        -16: "Ziti Edge Router is not available",
        -17: "Service not available",
        -18: "Connection closed",
        -19: "Operation did not complete in time",
        -20: "Connection to edge router terminated",
        -21: "invalid state",
        -22: "crypto failure",
        -23: "connection is closed",
        -34: "WTF: programming error",
    }
    if EARLY
    else {
        0: "OK",
        -13: "configuration is invalid",
        -14: "failed to authenticate",
        -15: "not authorized",
        -16: "ziti controller is not available",
        -17: "ziti edge router is not available",
        -18: "service not available",
        -19: "end of data",
        -20: "operation did not complete in time",
        -21: "connection to edge router terminated",
        -22: "invalid state",
        -23: "crypto failure",
        -24: "connection is closed",
        -111: "WTF: programming error",
    }
)

_libc = ctypes.CDLL(None)
_local = threading.local()


class Version(NamedTuple):
    version: bytes
    revision: bytes


class _Never(Exception):
    """There will be no answer, not even that there is none."""


class _Future:
    """``await_future`` of the real one: pthread_cond_wait, which no signal ends."""

    def __init__(self, work: Callable[[], Message]) -> None:
        self._work = work
        self._result: Message | None = None
        self._mutex, self._condition = ctypes.create_string_buffer(128), ctypes.create_string_buffer(128)
        _libc.pthread_mutex_init(self._mutex, None)
        _libc.pthread_cond_init(self._condition, None)

    def result(self, milliseconds: int = 0) -> Message:
        threading.Thread(target=self._run, daemon=True).start()
        end = time.time() + milliseconds / 1000
        until = (ctypes.c_long * 2)(int(end), int(end % 1 * 1e9))
        _libc.pthread_mutex_lock(self._mutex)
        while self._result is None:
            if not milliseconds:
                _libc.pthread_cond_wait(self._condition, self._mutex)
            elif _libc.pthread_cond_timedwait(self._condition, self._mutex, until) == errno.ETIMEDOUT:
                self._result = {"error": TIMEOUT}
        _libc.pthread_mutex_unlock(self._mutex)
        return self._result

    def _run(self) -> None:
        with suppress(_Never):
            result = self._work()
            _libc.pthread_mutex_lock(self._mutex)
            self._result = self._result or result
            _libc.pthread_cond_broadcast(self._condition)
            _libc.pthread_mutex_unlock(self._mutex)


@dataclass(eq=False)
class _Bridge:
    """A connection or a binding: the broker closes ``conversation`` when it is over."""

    fd: int
    conversation: socket.socket
    binding: int = 0


class _Library:
    def __init__(self) -> None:
        self.identities: dict[str, str] = {}
        """By path: what was loaded, or "" where that has failed or is not done."""
        self.bridges: dict[int, _Bridge] = {}
        self.contexts: dict[int, tuple[str, socket.socket]] = {}
        self.router: socket.socket | None = None
        self._closing: dict[int, _Bridge] = {}
        self._ends = select.epoll()
        self._watching = False

    def watch(self, bridge: _Bridge) -> None:
        self.bridges[bridge.fd] = bridge
        self._closing[bridge.conversation.fileno()] = bridge
        self._ends.register(bridge.conversation, select.EPOLLIN)
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for number, _ in self._ends.poll():
                bridge = self._closing.pop(number)
                # By the number alone: whoever has it by now is forgotten.
                self.bridges.pop(bridge.fd, None)
                self._ends.unregister(number)
                bridge.conversation.close()

    def nodelay(self) -> bool:
        return bool(self.router and self.router.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


_library = _Library()


def _ask(request: Message) -> tuple[Message, list[int], socket.socket]:
    """The broker's answer, the descriptors that came along, and the connection, on which what was asked for lasts."""
    conversation = socket.socket(socket.AF_UNIX)
    try:
        conversation.connect(os.environ["ZITI_STANDIN_NETWORK"] + "/broker")
        conversation.sendall(json.dumps(request).encode())
        answer, fds, _, _ = socket.recv_fds(conversation, 65536, 1)
    except OSError:
        answer, fds = b"", []
    if not answer:
        raise _Never
    message: Message = json.loads(answer)
    if message.get("segfault"):
        ctypes.string_at(0)
    return message, fds, conversation


def _set_error(code: int, number: int = 0) -> None:
    """libziti's own error, and errno, which only the later library looks at."""
    _local.error, _local.errno = code, number


def _ziti_lasterr() -> int:
    code: int = getattr(_local, "error", 0)
    return code


def _fail(code: int) -> int:
    """Do as most of libziti does with an error. The later one puts even its own codes into errno, and there only."""
    if EARLY:
        _set_error(code)
    else:
        _set_error(_ziti_lasterr() if code < 0 else code, code)
    return -1


def _connect_socket(given: int, fd: int) -> None:
    """Put what came from the broker into the place of the user's socket."""
    os.dup2(given, fd, inheritable=False)
    if not EARLY:
        os.close(given)  # the early one forgets to
        os.set_blocking(fd, False)  # and the later one leaves it so


def ziti_socket(type: int) -> int:
    fd = socket.socket(socket.AF_INET, type).detach()
    _set_error(0)
    if not EARLY:
        _library.bridges.pop(fd, None)
    return fd


def ziti_close(fd: int) -> None:
    if _library.bridges.pop(fd, None):
        os.close(fd)


def _load_context(path: str) -> Message:
    first = path not in _library.identities
    try:
        with open(path, "rb") as file:
            identity = json.loads(file.read())
        if not isinstance(identity, dict):
            raise ValueError
    except (OSError, ValueError):
        return {"error": INVALID_CONFIG}
    if not (identity.get("ztAPI") and isinstance(identity.get("id"), dict) and identity["id"].get("key")):
        if EARLY:
            ctypes.string_at(0)
        return {"error": INVALID_CONFIG}
    if not first:
        if not EARLY:
            return {"error": INVALID_STATE}
        if not _library.identities[path]:
            raise _Never
    name = identity.get("standin", "")
    _library.identities[path] = ""
    answer, _, conversation = _ask({"op": "load", "identity": name})
    if "error" not in answer:
        _library.identities[path] = name
        answer["context"] = len(_library.contexts) + 1
        _library.contexts[answer["context"]] = name, conversation
    return answer


def _load(path: str, timeout: int) -> tuple[int | None, int]:
    answer = _Future(lambda: _load_context(path)).result(timeout)
    code = answer.get("error", 0)
    if code and not EARLY:
        _library.identities.pop(path, None)
    _set_error(code)
    return answer.get("context"), code


def _ziti_bind(fd: int, ctx: int, service: bytes, terminator: bytes | None) -> int:
    if ctx not in _library.contexts:
        return errno.EINVAL if EARLY else _fail(errno.EINVAL)
    identity, _ = _library.contexts[ctx]

    def work() -> Message:
        if fd in _library.bridges:
            return {"error": errno.EALREADY}
        request = {"op": "bind", "identity": identity, "service": service.decode(), "pid": os.getpid()}
        answer, fds, conversation = _ask(request)
        if "error" not in answer:
            _connect_socket(fds[0], fd)
            _library.watch(_Bridge(fd, conversation, answer["binding"]))
            if _library.router is None:
                _library.router = socket.create_connection(("127.0.0.1", answer["router"]))
        return answer

    return _done(_Future(work).result())


def _ziti_listen(fd: int, backlog: int) -> int:
    if backlog <= 0:
        return errno.EINVAL if EARLY else _fail(errno.EINVAL)

    def work() -> Message:
        if (bridge := _library.bridges.get(fd)) is None:
            return {"error": errno.EBADF}
        answer, _, conversation = _ask({"op": "listen", "binding": bridge.binding, "backlog": backlog})
        conversation.close()
        return answer

    return _done(_Future(work).result())


def _ziti_accept(fd: int, name: Any, size: int) -> int:
    def work() -> Message:
        if (bridge := _library.bridges.get(fd)) is None:
            return {"error": errno.EINVAL}
        blocking = os.get_blocking(fd)
        request = {"op": "accept", "binding": bridge.binding, "blocking": blocking, "nodelay": _library.nodelay()}
        answer, fds, conversation = _ask(request)
        if "error" in answer:
            conversation.close()
            return answer
        answer["fd"] = ziti_socket(socket.SOCK_STREAM)
        _connect_socket(fds[0], answer["fd"])
        _library.watch(_Bridge(answer["fd"], conversation))
        return answer

    answer = _Future(work).result()
    if code := answer.get("error", 0):
        # Where there is no such socket, the early one has errno's code as one of its own.
        code = -code if EARLY and code in (errno.EINVAL, errno.EBADF) else code
        _set_error(code, 0 if EARLY else code)
        return -1
    caller = answer["caller"].encode()[: size if EARLY else size - 1]
    ctypes.memmove(name, caller.ljust(size, b"\0"), size)
    with suppress(OSError):
        os.read(fd, 1)
    _set_error(0)
    fd = answer["fd"]
    return fd


def _ziti_connect(fd: int, ctx: int, service: bytes, terminator: bytes | None) -> int:
    if ctx not in _library.contexts:
        return errno.EINVAL if EARLY else _fail(errno.EINVAL)
    identity, _ = _library.contexts[ctx]

    def work() -> Message:
        if EARLY and fd in _library.bridges:
            return {"error": errno.EALREADY}
        request = {"op": "connect", "identity": identity, "service": service.decode(), "pid": os.getpid()}
        answer, fds, conversation = _ask(request)
        if "error" in answer:
            conversation.close()
            if EARLY:
                # The bridge that never was is closed, with the descriptor that it has not got yet: 0.
                with suppress(OSError):
                    os.close(0)
            return answer
        _connect_socket(fds[0], fd)
        _library.watch(_Bridge(fd, conversation))
        return answer

    answer = _Future(work).result()
    if "error" in answer and not EARLY:
        _set_error(INVALID_STATE if answer["error"] == INVALID_STATE else -18, errno.ECONNREFUSED)
        return -1
    return _done(answer)


def _done(answer: Message) -> int:
    if code := answer.get("error", 0):
        return _fail(code)
    if EARLY:
        _set_error(0)
    return 0


def _ziti_errorstr(code: int) -> bytes:
    return _TEXTS.get(code, "unexpected error").encode()


def errorstr(code: int) -> str:
    return _ziti_errorstr(code).decode()


def check_error(code: int) -> None:
    if code == 0:
        return
    error = _ziti_lasterr()
    number = getattr(_local, "errno", 0)
    if EARLY:
        raise Exception(error, errorstr(error))
    if number in (errno.EAGAIN, errno.EINPROGRESS):
        raise BlockingIOError
    if error < 0:
        raise Exception(error, errorstr(error))
    if number:
        raise OSError(number, os.strerror(number))


def init() -> None:
    """Nothing is left to do."""


def shutdown() -> None:
    if EARLY and not all(_library.identities.values()):
        ctypes.string_at(0)


def version() -> Version:
    return Version(b"0.29.3" if EARLY else b"1.18.0", b"standin")


def load(path: str, timeout: int = 0) -> Any:
    handle, code = _load(path, 0 if EARLY else timeout)
    return handle if EARLY else (handle or 0, code)


def connect(fd: int, ztx: int, service: str, terminator: str | None = None) -> None:
    if EARLY or terminator:
        terminator_b: bytes | None = bytes(terminator, encoding="utf-8")  # type: ignore[arg-type]
    else:
        terminator_b = None
    check_error(_ziti_connect(fd, ztx, service.encode(), terminator_b))


def bind(fd: int, ztx: int, service: str, terminator: str | None = None) -> None:
    check_error(_ziti_bind(fd, ztx, service.encode(), terminator.encode() if terminator else None))


def listen(fd: int, backlog: int) -> None:
    check_error(_ziti_listen(fd, backlog))


def accept(fd: int) -> tuple[int, tuple[str, int]]:
    name = ctypes.create_string_buffer(128)
    client = _ziti_accept(fd, name, 128)
    if client < 0:
        check_error(client)
    return client, (name.value.decode("utf-8"), 0)


def enroll(jwt: str, key: str | None = None, cert: str | None = None) -> str:
    """The stand-in's token is the identity file that it is worth."""
    with suppress(OSError), open(jwt) as file:
        jwt = file.read()
    try:
        return json.dumps(json.loads(jwt))
    except ValueError as error:
        raise RuntimeError(errorstr(-4)) from error

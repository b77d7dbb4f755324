"""Ziti's library, in any version. Only this module imports it.

``openziti`` comes in two shapes: up to 0.6.0 ``load(path)`` returns a context; later ``load(path, timeout=...)``
returns a context and an error code. Its other quirks, handled here, were found in its source and by trying.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import inspect
import os
import socket
import threading
from importlib import import_module
from typing import Any

from portico.ziti.native.descriptors import allow_many, close_twins

BACKLOG = 2**31 - 1
"""Up to 0.6.0 it counts down over the life of a binding, which is dead once it reaches zero."""
NAME_BYTES = 1024
"""The room for a caller's name. The library's wrapper allows 128, cuts there, and fails if that splits a character."""


# The codes of ziti/errors.h were renumbered between versions; their texts have stayed.
_KINDS = {
    "configuration is invalid": "identity",
    "not authorized": "authentication",
    "failed to authenticate": "authentication",
    "controller is not available": "controller",
    "edge router is not available": "router",
    "service not available": "service",
    "wtf: programming error": "permission",
    "connection is closed": "nobody",
    "did not complete in time": "late",
    "jwt not accepted by controller": "used",
    "jwt has invalid format": "token",
    "jwt verification failed": "signature",
    "connection to edge router terminated": "cut",
    "invalid state": "offline",
    "crypto failure": "insecure",
    "no longer exists": "gone",
    "posture check": "posture",
    "mfa": "factor",
    "partially authenticated": "factor",
    "dialled, it ": "unanswered",
}
_WORDS = {
    "identity": "libziti does not take this identity",
    "authentication": "the controller does not know this identity, or no longer lets it in",
    "controller": "the controller can't be reached",
    "router": "no edge router can be reached",
    "service": "the network has no such service, or this identity may not dial it",
    "permission": "this identity may not dial it",
    "nobody": "no server has bound it",
    "late": "neither the controller nor an edge router has answered in time",
    "used": "the controller does not accept the token: it was used already, or withdrawn",
    "token": "it is no enrolment token",
    "signature": "the token is not signed by the controller that it names",
    "cut": "the edge router has ended the connection: try again",
    "offline": "neither the controller nor an edge router can be reached now: try again once the network is back",
    "insecure": "the connection could not be encrypted, as happens when its service was deleted or made anew: see "
    "whether the service exists, and try again",
    "gone": "the network no longer has what this identity asked for, or no longer shows it: look at its policies",
    "posture": "the network's posture checks refuse this machine: fulfil them, or have the policy changed",
    "factor": "the network wants a second factor (MFA), which Portico can't give: use an identity without one",
}


class LibraryError(Exception):
    """An error of the library. ``code`` is negative as in ziti/errors.h, positive as in errno, or None."""

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def kind(self) -> str:
        """The kind of error: identity, authentication, controller, router, service, permission, nobody, late ...

        ``service``: it does not exist, or this identity may not see it. ``nobody``: no server has bound it.
        ``unanswered``: it could be dialled, and no answer came. "": other.
        """
        return next((kind for text, kind in _KINDS.items() if text in self.text.lower()), "")

    @property
    def words(self) -> str:
        """The error in words for the people who enrol, log in or dial."""
        return _WORDS.get(self.kind) or (
            f"Ziti's library says only `{self.text}`: see whether the network is up and the identity is known, and try "
            "again"
        )


class LibraryMissing(LibraryError):
    """The package is not installed, or can't be loaded."""

    @property
    def words(self) -> str:
        return f"the package openziti can't be loaded ({self.text}): pip install 'portico-server[ziti]'"


class Library:
    """The library. Every call that waits may hang for ever, and any call may crash."""

    def __init__(self) -> None:
        try:
            openziti, zitilib = import_module("openziti"), import_module("openziti.zitilib")
        except (ImportError, OSError) as error:
            raise LibraryMissing(None, f"{error}") from error
        self._openziti: Any = openziti
        self._low: Any = zitilib
        self._with_codes = "timeout" in inspect.signature(openziti.load).parameters
        self._context: Any = None
        self._lock = threading.Lock()
        # These numbers are too high for accepted connections, which get the lowest free ones.
        self._first = self._next = allow_many() // 2

    @property
    def version(self) -> str:
        return str(getattr(self._openziti, "__version__", "of unknown version"))

    def load(self, path: str, seconds: float) -> None:
        """Load an identity. After a failure the library can't be used any more: up to 0.6.0 a second try hangs."""
        try:
            if self._with_codes:
                self._context, code = self._openziti.load(path, timeout=int(seconds * 1000))
            else:
                self._context, code = self._openziti.load(path), 0
        except TypeError as error:
            # Up to 0.6.0 a failure returns a null pointer, about which the wrapper raises TypeError.
            code = int(self._low._ziti_lasterr())
            raise LibraryError(code or None, self._text(code) if code else str(error)) from error
        except Exception as error:
            raise self._refusal(error) from error
        if code:
            raise LibraryError(code, self._text(code))

    def bind(self, service: str) -> int:
        """Bind a service; return a descriptor that is readable when `accept` may succeed, or the binding is lost."""
        descriptor = self._socket()
        try:
            # Not with the context's own bind: others could get the number of its socket later, see `_socket`.
            self._low.bind(descriptor, self._context._ctx, service)
            close_twins(descriptor)  # see `accept`
            self._low.listen(descriptor, BACKLOG)
            # Only here: the library has replaced the first socket by another.
            os.set_blocking(descriptor, False)
        except Exception as error:
            os.close(descriptor)
            raise self._refusal(error) from error
        return descriptor

    def accept(self, descriptor: int) -> tuple[int, str] | None:
        """Return a connection and the name that its other end gives itself; None if there is none now.

        It may block until somebody dials: if a connection fails while it is accepted, the library does not report it.
        """
        name = ctypes.create_string_buffer(NAME_BYTES)
        try:
            connection = self._low._ziti_accept(descriptor, name, NAME_BYTES)
            if connection < 0:
                self._raise()
        except Exception as error:
            refusal = self._refusal(error)
            if refusal.code in (errno.EAGAIN, errno.EWOULDBLOCK):
                return None  # up to 0.6.0 this is a plain Exception
            raise refusal from error
        # Up to 0.6.0 the library keeps a second descriptor of its user's end, and loses it. Without this, closing the
        # connection would never reach the caller, and descriptors would run out.
        close_twins(connection)
        return connection, name.value.decode("utf-8", "replace")

    def dial(self, service: str) -> socket.socket:
        """Connect to a service. Later versions report success before the connection is made."""
        descriptor = self._socket()
        try:
            # Not with the context's own connect: up to 0.6.0 it always raises TypeError, and loses a descriptor.
            if self._low._ziti_connect(descriptor, self._context._ctx, service.encode(), None):
                self._raise()
            close_twins(descriptor)  # see `accept`
            return socket.socket(fileno=descriptor)
        except Exception as error:
            os.close(descriptor)
            # Up to 0.6.0 it has closed descriptor 0; the next failure would close a connection that got this number.
            _occupy_zero()
            raise self._refusal(error) from error

    def enroll(self, token: str) -> str:
        """Trade a token for an identity, which is JSON with a new private key in it."""
        try:
            identity: str = self._openziti.enroll(token)
        except Exception as error:
            raise self._refusal(error) from error
        return identity

    def _socket(self) -> int:
        """Return a socket of the library with a descriptor number that none of its connections has had.

        The library keys its state by these numbers, and forgets one only some time after its connection has ended. With
        such a number a dial fails (EALREADY), and a binding is forgotten together with the connection (EINVAL).
        """
        with self._lock:
            given = self._low.ziti_socket(socket.SOCK_STREAM)
            if given < 0:
                raise LibraryError(errno.EMFILE, "there are too many open files")
            try:
                descriptor = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, self._next)
            finally:
                os.close(given)
            self._next = descriptor + 1 if descriptor - self._first < 1000 else self._first
            return descriptor

    def _raise(self) -> None:
        self._low.check_error(-1)
        raise LibraryError(None, "it does not say why")

    def _refusal(self, error: Exception) -> LibraryError:
        if isinstance(error, LibraryError):
            return error
        if isinstance(error, BlockingIOError):
            return LibraryError(errno.EAGAIN, str(error))
        code = error.args[0] if error.args and isinstance(error.args[0], int) else None
        # Later versions raise their own codes as OSError too, with a text that says nothing.
        return LibraryError(code, self._text(code) if code else str(error) or type(error).__name__)

    def _text(self, code: int) -> str:
        return os.strerror(code) if code > 0 else str(self._low.errorstr(code))


def _occupy_zero() -> None:
    if opened := os.open(os.devnull, os.O_RDONLY):
        os.close(opened)

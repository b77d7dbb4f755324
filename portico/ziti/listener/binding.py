"""The binding of one service, which accepts connections and hands them over."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable

from portico.ziti.listener.listener_control import ListenerControl
from portico.ziti.listener.steps import Steps
from portico.ziti.native.library import Library, LibraryError

LOOK_SECONDS = 1.0
"""The time between two tries to accept when nothing seems to have come: only a try shows that a binding is lost."""
ERRORS, ERROR_SECONDS = 10, 0.1
"""So many errors in a row, so far apart, mean a lost binding: a withdrawn policy gives EINVAL for ever."""
AGAIN_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""The pauses between tries to bind a refused or lost service, while the other services are served."""
WELL_SECONDS = 60.0
"""After so long a time without an error, the pauses begin with the first one again."""
TURN_SECONDS = 3.0
"""Services are bound one after the other, but one that hangs holds up the next no longer than this."""
HANGS = 3
"""The most threads that may hang in the library for one service. One that hangs may still come back."""
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class Lost(Exception):
    """The network no longer knows this binding, and no other service is bound."""

    def __init__(self, service: str, error: LibraryError) -> None:
        super().__init__(error.text)
        self.service = service
        self.error = error


class Binding:
    """One service, served by a thread of its own, as one call may wait for long.

    A lost binding is not closed: that would not end it on the network, and its number could be given to another.
    """

    _turn = threading.Lock()

    def __init__(
        self, service: str, library: Library, control: ListenerControl, steps: Steps, bind_seconds: float
    ) -> None:
        self.service = service
        self.accepted = 0
        self.refusing = False
        self.decided = threading.Event()
        """Set once it is bound, refused or given up for the first time."""
        self._library = library
        self._control = control
        self._steps = steps
        self._bind_seconds = bind_seconds
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._newest = 0
        self._hangs = 0
        self._tries = iter(AGAIN_SECONDS)

    @property
    def bound(self) -> bool:
        return self._descriptor is not None

    def serve(self, opened: threading.Event, others: Callable[[], bool]) -> None:
        """Bind, and accept connections for ever once it is ``opened``. Bind again whenever the binding is lost.

        Raises `Lost` if it is lost and there are no bound ``others``.
        """
        descriptor = self._bind()
        opened.wait()
        self.serve_again(others, descriptor)

    def serve_again(self, others: Callable[[], bool], descriptor: int | None = None) -> None:
        """Take over from other threads, which may hang in the library, or still accept with an earlier descriptor."""
        with self._lock:
            self._newest = mine = self._newest + 1
        while True:
            while descriptor is None:
                time.sleep(next(self._tries, AGAIN_SECONDS[-1]))
                if self.bound or self._newest != mine:
                    return
                descriptor = self._bind()
            began = time.monotonic()
            error = self._accept(descriptor)
            if not self.forget(descriptor):
                return  # there is a later one
            if not others():
                raise Lost(self.service, error) from error
            self._control.tell("lost", service=self.service, text=error.text)
            descriptor = None
            if time.monotonic() - began >= WELL_SECONDS:
                self._tries = iter(AGAIN_SECONDS)

    def forget(self, descriptor: int | None = None) -> bool:
        """Count as not bound any more; return False if it was not, or not with this ``descriptor``."""
        with self._lock:
            if self._descriptor is None or descriptor not in (None, self._descriptor):
                return False
            self._descriptor = None
            return True

    def give_up_call(self) -> bool:
        """Report a call that hangs. Return True if another thread may try."""
        self._hangs += 1
        text = f"it did not end within {self._bind_seconds:g} s"
        self._control.tell("refused", service=self.service, kind="", text=text, hung=True)
        self.decided.set()
        return self._hangs < HANGS

    def _bind(self) -> int | None:
        """Bind; return the descriptor, or report why not."""
        in_turn = self._turn.acquire(timeout=TURN_SECONDS)
        try:
            self._control.tell("binding", service=self.service)
            with self._steps.within(self._bind_seconds, "bind", self.service):
                descriptor = self._descriptor = self._library.bind(self.service)
        except LibraryError as refusal:
            self._control.tell("refused", service=self.service, kind=refusal.kind, text=refusal.text)
            return None
        else:
            self._control.tell("bound", service=self.service)
            return descriptor
        finally:
            if in_turn:
                self._turn.release()
            self.decided.set()  # last, so that "ready" comes after what was told here

    def _accept(self, descriptor: int) -> LibraryError:
        """Accept connections until the binding is lost; return the error that says so."""
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        errors = 0
        while True:
            waiting.poll(LOOK_SECONDS * 1000)
            try:
                while (found := self._library.accept(descriptor)) is not None:
                    errors = 0
                    self._hand_over(*found)
                errors = 0
            except LibraryError as error:
                errors += error.code not in _FULL
                if errors >= ERRORS:
                    return error
                time.sleep(ERROR_SECONDS)  # the library would fill the disk with its log of these errors

    def _hand_over(self, connection: int, caller: str) -> None:
        self.accepted += 1
        try:
            if not self.refusing:
                self._control.hand_over(connection, self.service, caller)
        finally:
            os.close(connection)

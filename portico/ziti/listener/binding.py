"""The binding of one service, which accepts connections and hands them over."""

from __future__ import annotations

import errno
import os
import select
import threading
import time

from portico.ziti.listener.listener_control import ListenerControl
from portico.ziti.listener.steps import Steps
from portico.ziti.native.library import Library, LibraryError

LOOK_SECONDS = 1.0
"""The time between two tries to accept when nothing seems to have come: only a try shows that a binding is lost."""
ERRORS, ERROR_SECONDS = 10, 0.1
"""So many errors in a row, so far apart, mean a lost binding: a withdrawn policy gives EINVAL for ever."""
AGAIN_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""The pauses between tries to bind a refused service, while the other services are served."""
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class Lost(Exception):
    """The network no longer knows this binding."""

    def __init__(self, service: str, error: LibraryError) -> None:
        super().__init__(error.text)
        self.service = service
        self.error = error


class Binding:
    """One service. Each is served by a thread of its own, as one call may wait for long."""

    _one_at_a_time = threading.Lock()

    def __init__(
        self, service: str, library: Library, control: ListenerControl, steps: Steps, bind_seconds: float
    ) -> None:
        self.service = service
        self.accepted = 0
        self.refusing = False
        self._library = library
        self._control = control
        self._steps = steps
        self._bind_seconds = bind_seconds
        self._descriptor: int | None = None

    @property
    def bound(self) -> bool:
        return self._descriptor is not None

    def bind(self) -> None:
        """Bind, or report that it was refused."""
        with self._one_at_a_time:
            self._control.tell("binding", service=self.service)
            try:
                with self._steps.within(self._bind_seconds, "bind", self.service):
                    self._descriptor = self._library.bind(self.service)
            except LibraryError as refusal:
                self._control.tell("refused", service=self.service, kind=refusal.kind, text=refusal.text)
            else:
                self._control.tell("bound", service=self.service)

    def serve(self) -> None:
        """Accept connections for ever. Raises `Lost`."""
        tries = iter(AGAIN_SECONDS)
        while self._descriptor is None:
            time.sleep(next(tries, AGAIN_SECONDS[-1]))
            self.bind()
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN)
        errors = 0
        while True:
            waiting.poll(LOOK_SECONDS * 1000)
            try:
                while (found := self._library.accept(self._descriptor)) is not None:
                    errors = 0
                    self._hand_over(*found)
                errors = 0
            except LibraryError as error:
                errors += error.code not in _FULL
                if errors >= ERRORS:
                    raise Lost(self.service, error) from error
                time.sleep(ERROR_SECONDS)  # the library would fill the disk with its log of these errors

    def _hand_over(self, connection: int, caller: str) -> None:
        self.accepted += 1
        try:
            if not self.refusing:
                self._control.hand_over(connection, self.service, caller)
        finally:
            os.close(connection)

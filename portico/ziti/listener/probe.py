"""The probe dials the bound services, and sends the server a request: only that proves that it can be reached."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from portico.ziti.listener.binding import Binding, Lost
from portico.ziti.listener.listener_control import ListenerControl
from portico.ziti.listener.steps import Steps
from portico.ziti.native.library import Library, LibraryError

DIAL_SECONDS = 60.0
"""Seconds; the library itself gives up after about 10."""
ANSWER_SECONDS = 10.0
SOON_SECONDS = 5.0
"""The time until the next probe if nobody seems to have bound the service: right after a bind the network may not know
it yet."""
FAILURES = 3
FAILURES_IN_USE = 20
"""The limit while connections work: perhaps only the controller is away, and a restart would cut them for nothing."""


class Probe:
    """Counts failures of a service only once it was reached: before that, the identity perhaps may not dial it.

    The exception is the answer that nobody has bound it: this shows that the identity may dial it.
    """

    def __init__(
        self,
        library: Library,
        bindings: Sequence[Binding],
        control: ListenerControl,
        steps: Steps,
        *,
        path: str,
        seconds: float,
        in_use: Callable[[], bool],
    ) -> None:
        self._library = library
        self._control = control
        self._steps = steps
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        self._seconds = seconds
        self._in_use = in_use
        self._failures: dict[Binding, int | None] = dict.fromkeys(bindings)
        self._told: set[Binding] = set()

    def run(self) -> None:
        """Probe for ever. Raises `Lost`. Returns if this identity may dial none of the services."""
        while self._failures:
            pause = self._seconds
            for binding in list(self._failures):
                if binding.bound and self._probe(binding) == "nobody":
                    pause = min(pause, SOON_SECONDS)
            time.sleep(pause)

    def _probe(self, binding: Binding) -> str | None:
        """Probe once; return the kind of failure, or None if the service was reached."""
        try:
            with self._steps.within(DIAL_SECONDS, "probe", binding.service):
                self._ask(binding.service)
        except LibraryError as error:
            self._count(binding, error)
            return error.kind
        self._failures[binding] = 0
        return None

    def _count(self, binding: Binding, error: LibraryError) -> None:
        failures = self._failures[binding]
        if failures is None and error.kind == "nobody" and not self._in_use():
            failures = 0
        if failures is None:
            if binding not in self._told:
                self._told.add(binding)
                self._control.tell("unprobed", service=binding.service, kind=error.kind, text=error.text)
            if error.kind == "permission":
                del self._failures[binding]
            return
        self._failures[binding] = failures = failures + 1
        # If the network says that nobody has bound it, there are no connections to be patient for.
        if failures >= (FAILURES_IN_USE if self._in_use() and error.kind != "nobody" else FAILURES):
            raise Lost(binding.service, error)

    def _ask(self, service: str) -> None:
        """Send a request to the service. Raises `LibraryError` if no answer comes."""
        with self._library.dial(service) as connection:
            try:
                connection.settimeout(ANSWER_SECONDS)
                connection.sendall(self._request)
                answered = connection.recv(1)
            except OSError as error:
                raise LibraryError(error.errno, f"dialled, it does not answer ({error})") from error
        if not answered:
            raise LibraryError(None, "dialled, it closes without an answer")

"""The listener: the work of its threads, and the reasons that end it."""

from __future__ import annotations

import os
import select
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from portico.ziti.listener.binding import TURN_SECONDS, Binding, Lost
from portico.ziti.listener.listener_control import HEARTBEAT_SECONDS, ListenerControl, Task
from portico.ziti.listener.spin import Spin
from portico.ziti.listener.steps import Steps
from portico.ziti.native import descriptors
from portico.ziti.native.library import Library, LibraryError, LibraryMissing

LEAVE_SECONDS = 1.0
"""The time at a stop for the server's last data to get into the network."""


GRACE_SECONDS = 2.0
"""Extra time for a load: later versions of the library enforce the limit themselves, and report more."""


class Listener:
    """Runs the threads. The main thread never calls Ziti's library, so it can end the process if the others hang."""

    def __init__(self, control: ListenerControl, task: Task) -> None:
        self._control = control
        self._task = task
        self._steps = Steps()
        self._spin = Spin(task.spin)
        self._bindings: Sequence[Binding] = ()
        self._failure: dict[str, Any] | None = None
        self._woken, self._wake = os.pipe()
        self._opened = threading.Event()

    def run(self) -> NoReturn:
        self._start(self._open)
        waiting = select.poll()
        for descriptor in (self._control.fileno(), self._woken):
            waiting.register(descriptor, select.POLLIN)
        due = 0.0
        while True:
            ready = dict(waiting.poll(max(0.0, due - time.monotonic()) * 1000))
            if self._control.fileno() in ready:
                self._obey()
            if time.monotonic() >= due:
                due = time.monotonic() + HEARTBEAT_SECONDS
                self._control.beat()
                self._look()
            if self._failure is not None:
                self._control.tell("failed", **self._failure)
                _end(1)

    def _obey(self) -> None:
        message = self._control.receive()
        if message is None:
            self._leave()
        for binding in self._bindings:
            if message["type"] == "stop":
                binding.refusing = True
            elif message["service"] == binding.service and binding.forget():
                self._start(self._serving_again(binding))

    def _leave(self) -> NoReturn:
        end = time.monotonic() + LEAVE_SECONDS
        quiet = 0  # quiet looks in a row: the library may hold data that it has not sent yet
        while quiet < 3 and time.monotonic() < end:
            quiet = 0 if descriptors.under_way() else quiet + 1
            time.sleep(0.02)
        _end(0)

    def _look(self) -> None:
        """Look for signs of trouble that no thread reports: a hung step, and spinning."""
        carried = descriptors.hurry()  # again and again, because connections to routers come and go
        accepted = sum(binding.accepted for binding in self._bindings)
        for step in self._steps.take_hung():
            binding = next((one for one in self._bindings if one.service == step.service), None)
            if binding is None or not any(
                one.bound or not one.decided.is_set() for one in self._bindings if one is not binding
            ):
                text = f"it did not end within {step.seconds:g} s"
                self._fail(step.name, text, service=step.service, hung=True)
            elif binding.give_up_call():
                self._start(self._serving_again(binding))
        if self._spin.look(time.monotonic(), time.process_time(), carried, accepted):
            self._fail("spin", f"it was busy with nothing for {self._task.spin:g} s")

    # The work of the threads.

    def _open(self) -> None:
        task = self._task
        try:
            library = Library()
            self._control.tell("version", library=library.version)
            with self._steps.within(task.load + GRACE_SECONDS, "load"):
                library.load(task.identity, task.load)
        except LibraryMissing as error:
            self._fail("import", str(error))
            return
        except LibraryError as error:
            self._fail("load", error.text, kind=error.kind)
            return
        self._bindings = [Binding(service, library, self._control, self._steps, task.bind) for service in task.services]
        # Bind all before the first accepts: see `Library._socket`; the server also waits for all of them.
        for binding in self._bindings:
            self._start(partial(binding.serve, self._opened, self._others(binding)))
            binding.decided.wait(TURN_SECONDS)
        while not any(binding.decided.is_set() for binding in self._bindings):
            time.sleep(0.05)  # until one is bound, or hangs for too long
        # Without this each request takes 42 ms with openziti 1.x, whose library leaves Nagle's algorithm on.
        descriptors.hurry()
        self._control.tell("ready")
        self._opened.set()

    def _others(self, binding: Binding) -> Callable[[], bool]:
        return lambda: any(other.bound for other in self._bindings if other is not binding)

    def _serving_again(self, binding: Binding) -> Callable[[], None]:
        return partial(binding.serve_again, self._others(binding))

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Lost as lost:
            self._fail("lost", lost.error.text, service=lost.service)
        except ConnectionError:
            pass  # the server has gone: the main thread sees that too
        except Exception as error:
            traceback.print_exc()
            self._fail("bug", f"{type(error).__name__}: {error}")

    def _fail(self, step: str, text: str, **fields: Any) -> None:
        self._failure = self._failure or {"step": step, "text": text, **fields}
        os.write(self._wake, b"!")


def _end(status: int) -> NoReturn:
    # No orderly exit: the library's own shutdown crashes after a failed load, and may hang after a good one.
    os._exit(status)

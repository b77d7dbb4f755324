"""Runs a program with all that it starts, and ends all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

POLL_SECONDS = 0.1
UNWIND_SECONDS = 5.0
"""For a program to end its own children after an interrupt; then they are told themselves."""
STOP_SECONDS = 20.0
"""From the interrupt on, for them to end; then they are killed."""
KILL_SECONDS = 30.0
"""After which what does not even die is left alone."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """Somebody has asked this program to stop."""


class Interrupts:
    """Counts the requests to stop. It raises nothing by itself: what must be undone is never cut short."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def check(self) -> None:
        """Raises `Interrupted`."""
        if self.count:
            raise Interrupted


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Take Ctrl-C, SIGTERM and SIGHUP as requests to stop."""
    told = Interrupts()
    before = {number: signal.signal(number, told.note) for number in _SIGNALS}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class Finished:
    """``status`` is None where the program took longer than it may."""

    status: int | None
    output: str
    complaints: str


def run(
    argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str], told: Interrupts, seconds: float
) -> Finished:
    """Run a program to its end. Raises `Interrupted`. Either way nothing that it has started is left."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        told.check()
        # In a session of its own, so that a Ctrl-C on the terminal reaches this program alone, which ends the other.
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=complaints,
            start_new_session=True,
        )
        end = time.monotonic() + seconds
        try:
            while child.poll() is None and time.monotonic() < end:
                told.check()
                time.sleep(POLL_SECONDS)
            status = child.poll()
        finally:
            _end(child, told)
        output.seek(0)
        complaints.seek(0)
        return Finished(status, output.read().decode(errors="replace"), complaints.read().decode(errors="replace"))


def _end(child: subprocess.Popen[bytes], told: Interrupts) -> None:
    """End what is left of the child: let it clean up, then tell the others, then kill. A further signal hurries."""
    began, hurried = time.monotonic(), told.count
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    left = _family(child)
    asked = False
    while left and (waited := time.monotonic() - began) < KILL_SECONDS:
        patient = told.count == hurried
        if (waited > STOP_SECONDS or not patient) and asked:
            _signal(left, signal.SIGKILL)
        elif (waited > UNWIND_SECONDS or not patient or child.poll() is not None) and not asked:
            asked = True
            _signal(left, signal.SIGTERM)
        time.sleep(POLL_SECONDS)
        left = _live({*left, *_family(child)})
    child.poll()


def _family(child: subprocess.Popen[bytes]) -> set[psutil.Process]:
    """The child, its descendants, and what it has orphaned in its session."""
    found: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        if child.poll() is None:
            parent = psutil.Process(child.pid)
            found |= {parent, *parent.children(recursive=True)}
    for process in psutil.process_iter():
        with suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == child.pid:
                found |= {process, *process.children(recursive=True)}
    return _live(found)


def _live(processes: set[psutil.Process]) -> set[psutil.Process]:
    left = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.add(process)
    return left


def _signal(processes: set[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)

"""The first process of a container, where that would be the server: it reaps the orphans of all other processes.

A process with the number 1, or with PR_SET_CHILD_SUBREAPER, becomes the parent of every orphan, and has to wait for
it. In the server that would be a race for the exit status of its own children. So the server moves into a child of its
own, and what is left here is this file, run as a program: without modules, without an environment, without secrets.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

PASSED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

_PR_SET_PDEATHSIG, _PR_GET_CHILD_SUBREAPER = 1, 37  # <linux/prctl.h>


def step_aside() -> int | None:
    """Go on in a child where orphans come to this process; return the number that the process had before.

    None where no orphan comes. Call it before there are threads. Signals that come meanwhile are not lost.
    """
    if sys.platform != "linux" or not _gets_orphans():
        return None
    former = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the exit status away
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD})
    child = os.fork()
    if child:
        _keep_nothing_open()
        program = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(child)]
        os.execve(sys.executable, program, {})  # noqa: S606
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != former:
        os._exit(1)
    os.setpgid(0, 0)  # what a terminal sends to all its processes must not come twice
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return former


def watch(child: int) -> int:
    """Reap every child, and pass signals on to the one that is the server; return its exit status once it ends."""
    signals = PASSED_ON | {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    while True:
        reaped, status = os.waitpid(-1, os.WNOHANG)
        if reaped == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if not reaped and (number := signal.sigwait(signals)) != signal.SIGCHLD:
            os.kill(child, number)


def _keep_nothing_open() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with suppress(OSError):  # it was for this very look
                os.set_inheritable(int(name), False)


def _gets_orphans() -> bool:
    import ctypes

    if os.getpid() == 1:
        return True
    answer = ctypes.c_int()
    return _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer)) == 0 and bool(answer.value)


def _prctl(option: int, value: object) -> int:
    import ctypes

    found: int = ctypes.CDLL(None).prctl(option, value)
    return found


if __name__ == "__main__":
    sys.exit(watch(int(sys.argv[1])))

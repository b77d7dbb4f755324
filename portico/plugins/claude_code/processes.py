"""The machine's processes, and those of them that belong to an agent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARKER = "PORTICO_AGENT"
"""The environment variable of everything that an agent starts; its value is the agent's folder."""


def start_time(pid: int) -> str | None:
    """Return the start time of the process with this pid, in a form that can only be compared; None if there is none.

    A pid and its start time name one process for ever: no clock change and no reboot gives them to another.
    """
    try:
        if sys.platform != "linux":
            return str(psutil.Process(pid).create_time())
        # Field 22 of proc_pid_stat(5), in clock ticks since boot. The command name, field 2, may contain blanks.
        ticks = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{ticks}"
    except (psutil.Error, OSError, IndexError):
        return None


def marked(wanted: Callable[[str], bool]) -> dict[psutil.Process, str]:
    """Return all live processes whose `MARKER` is ``wanted``, each with its value. Takes about 20 µs per process."""
    found = {}
    for pid in psutil.pids():
        folder = _marker(pid)
        if folder is not None and wanted(folder):
            try:
                found[psutil.Process(pid)] = folder
            except psutil.NoSuchProcess:
                continue
    return found


def families(roots: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Return these processes and all their descendants."""
    family = set(roots)
    if not family:
        return family
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        try:
            children.setdefault(process.ppid(), []).append(process)
        except psutil.Error:
            continue
    todo = list(family)
    while todo:
        new = [child for child in children.get(todo.pop().pid, ()) if child not in family]
        family.update(new)
        todo += new
    return family


def is_live(process: psutil.Process) -> bool:
    """Tell whether it still runs: a zombie does not."""
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _marker(pid: int) -> str | None:
    try:
        if sys.platform != "linux":
            return psutil.Process(pid).environ().get(MARKER)
        # Read directly: psutil takes five times as long, and this is done for every process on the machine.
        with Path(f"/proc/{pid}/environ").open("rb") as file:
            environ = b"\0" + file.read()
    except (psutil.Error, OSError):  # gone, or another user's
        return None
    _, found, rest = environ.partition(b"\0" + MARKER.encode() + b"=")
    return rest.partition(b"\0")[0].decode(errors="surrogateescape") if found else None

"""Agents as processes, seen from outside: what tests of the `claude-code` driver have in common."""

import os
import resource
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from portico.core.errors import AgentUnavailable
from portico.plugins.claude_code.cli import find_cli
from portico.plugins.claude_code.containment import Containment, detect, sandboxed
from tests.support.limits import HANG_SECONDS
from tests.support.sandbox import working_sandbox

MECHANISMS = ("pid-namespace", "user-pid-namespace", "bubblewrap", "cgroup", "best-effort")


def fake_agent(*steps: str) -> list[str]:
    """The command line of a fake agent that takes these steps."""
    return [sys.executable, str(Path(__file__).with_name("fake_agent.py")), *steps]


async def contained(name: str) -> Containment:
    """This mechanism, or the test is skipped where it does not work."""
    if name == "bubblewrap":
        return sandboxed(await working_sandbox())
    try:
        return await detect(os.environ["PATH"], [name])
    except LookupError:
        pytest.skip(f"this user may not contain agents by {name} on this machine")


def real_cli() -> Path:
    """The real CLI, or the test is skipped where there is none."""
    try:
        return find_cli(None, os.environ["PATH"])
    except AgentUnavailable as error:
        pytest.skip(error.detail)


def processes_of(folder: Path) -> list[psutil.Process]:
    """All live processes that have this agent's marker in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PORTICO_AGENT") == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def unique_seconds() -> str:
    """Two minutes for `sleep`, as a word that is on no other command line of this machine."""
    return f"120.{secrets.randbelow(10**15):015}"


def processes_with(word: str) -> list[psutil.Process]:
    """All live processes that have this word on their command line. One that is not random may be on others' too."""
    found = []
    for process in psutil.process_iter():
        try:
            if word in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def no_descriptors() -> Iterator[None]:
    """In here this process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def live(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. (One that nobody has waited for yet does not.)"""
    return [process for process in processes if _is_live(process)]


def gone_soon(processes: Sequence[psutil.Process], within: float = HANG_SECONDS) -> bool:
    """Tell whether all of them end within so many seconds."""
    end = time.monotonic() + within
    while live(processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _is_live(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

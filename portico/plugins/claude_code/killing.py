"""Killing agents that did not exit by themselves, and what they left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import anyio
import psutil

from portico.core.threads import in_thread
from portico.plugins.claude_code.cgroup import clear_cgroup, is_group_of
from portico.plugins.claude_code.processes import families, is_live, marked
from portico.plugins.claude_code.record import ProcessRecord

_AGAIN = 0.02  # seconds for killed processes to die


async def kill_agents(agents: Mapping[Path, ProcessRecord | None], within: float) -> bool:
    """SIGKILL all processes of these agents (by folder, with their records) until nothing is left.

    Takes ``within`` seconds at most; returns whether nothing is left. A record whose process has gone kills nothing.
    """
    hunt = _Hunt(agents)
    with anyio.move_on_after(within):
        while await in_thread(hunt.strike):  # noqa: ASYNC110 - no event tells of a death
            await anyio.sleep(_AGAIN)
        return True
    return False


class _Hunt:
    def __init__(self, agents: Mapping[Path, ProcessRecord | None]) -> None:
        self._folders = {str(folder) for folder in agents}
        self._records = [record for record in agents.values() if record is not None]
        self._cgroups = [
            Path(record.cgroup)
            for folder, record in agents.items()
            if record is not None and record.cgroup and is_group_of(Path(record.cgroup), folder)
        ]
        self._hit: set[psutil.Process] = set()

    def strike(self) -> bool:
        """Kill once; return whether there was, or may have been, something to kill."""
        try:
            return self._strike()
        except (OSError, psutil.Error):  # such as no descriptor left for looking at processes
            return True

    def _strike(self) -> bool:
        self._cgroups = [group for group in self._cgroups if not clear_cgroup(group)]
        roots = set(marked(self._folders.__contains__))
        for record in self._records:
            with contextlib.suppress(psutil.NoSuchProcess):
                if record.is_live():
                    roots.add(psutil.Process(record.pid))
        # Find the whole family before killing: an orphan is no longer known as anybody's child. A killed namespace
        # takes time to die, so killed processes are watched until they are gone.
        self._hit |= families(roots)
        self._hit = {process for process in self._hit if is_live(process)}
        for process in self._hit:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
        return bool(self._hit or self._cgroups)

"""Clearing up after a server that was killed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import anyio.to_thread

from portico.core.directory import Directory
from portico.core.short import clear_short
from portico.plugins.claude_code.agent_files import open_folder
from portico.plugins.claude_code.killing import kill_agents
from portico.plugins.claude_code.processes import marked
from portico.plugins.claude_code.record import NAME, ProcessRecord

REAP_TIME = 5.0
"""Seconds until all remaining processes must have died."""


async def reap(agents_folder: Path) -> list[Path]:
    """Kill all that is left of agents with folders in this one; return the folders of those that had something left.

    Their runtime folders elsewhere are removed too. Agents are known by their records, or by their environment if a
    server was killed before it wrote the record. The server must not have started an agent yet, and must be the only
    user of this folder. Raises OSError if something can't be killed.
    """
    base = Path(os.path.realpath(agents_folder))  # noqa: ASYNC240
    left = await anyio.to_thread.run_sync(_left, base)
    if left and not await kill_agents(left, REAP_TIME):
        raise OSError(f"What an earlier server's agents in {base} left running can't be killed.")
    known = [Path(record.runtime) for record in left.values() if record is not None and record.runtime is not None]
    await anyio.to_thread.run_sync(clear_short, base, known)
    for folder in left:
        await anyio.to_thread.run_sync(ProcessRecord.remove, folder)
    return sorted(left)


def _left(base: Path) -> dict[Path, ProcessRecord | None]:
    folders = set(_recorded(base))
    folders.update(Path(value) for value in marked(lambda value: _is_in(Path(value), base)).values())
    return {folder: ProcessRecord.read(folder) for folder in folders}


def _recorded(base: Path) -> list[Path]:
    found = []
    with suppress(FileNotFoundError), Directory.open(base) as agents:
        for name in agents.names():
            with suppress(NotADirectoryError, PermissionError), open_folder(base / name) as folder:
                if folder.has(NAME):
                    found.append(base / name)
    return found


def _is_in(folder: Path, base: Path) -> bool:
    return folder.parent == base and folder.name not in ("", "..")

"""Clearing up after a server that was killed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import anyio.to_thread

from portico.plugins.claude_code.environment import clear_short_folder
from portico.plugins.claude_code.killing import kill_agents
from portico.plugins.claude_code.processes import marked
from portico.plugins.claude_code.record import NAME, ProcessRecord

REAP_TIME = 5.0
"""Seconds that it may take until all that was left has died."""


async def reap(agents_folder: Path) -> list[Path]:
    """Kill all that is left of agents whose folders lie in this one; return the folders of those that had something.

    Their runtime folders elsewhere go too. Agents are known by their records, and by their environment where a server
    was killed before it wrote one. Only for a server that has started no agent yet, and alone uses this folder. Raises
    OSError when something can't be killed.
    """
    base = Path(os.path.realpath(agents_folder))  # noqa: ASYNC240
    left = await anyio.to_thread.run_sync(_left, base)
    if left and not await kill_agents(left, REAP_TIME):
        raise OSError(f"What an earlier server's agents in {base} left running can't be killed.")
    await anyio.to_thread.run_sync(_forget, left)
    return sorted(left)


def _forget(left: Mapping[Path, ProcessRecord | None]) -> None:
    for folder, record in left.items():
        if record is not None and record.runtime is not None:
            clear_short_folder(Path(record.runtime), folder)  # its name is looked at: the agent may have written this
        ProcessRecord.remove(folder)


def _left(base: Path) -> dict[Path, ProcessRecord | None]:
    folders = {path.parent for path in base.glob(f"*/{NAME}")}
    folders.update(Path(value) for value in marked(lambda value: Path(value).parent == base).values())
    return {folder: ProcessRecord.read(folder) for folder in folders}

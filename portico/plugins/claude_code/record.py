"""The record of a running agent, for a later server that has to clear up after this one."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from portico.plugins.claude_code.agent_files import open_folder
from portico.plugins.claude_code.processes import start_time

NAME = "process.json"

MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """An agent's outermost process; ``start_time`` is as `processes.start_time` gives it, and ``cgroup`` is a folder.
    So is ``runtime``, if the agent's runtime folder is outside its own.

    If the process is gone, its pid and start time name nothing, and never will again.
    """

    pid: int
    start_time: str
    containment: str
    cgroup: str | None = None
    runtime: str | None = None

    def is_live(self) -> bool:
        """Tell whether exactly this process still exists (it may be a zombie)."""
        return start_time(self.pid) == self.start_time

    def write(self, folder: Path) -> None:
        """Write it to the agent's folder, as a whole or not at all. Raises OSError."""
        with open_folder(folder) as own:
            own.write(NAME, json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> ProcessRecord | None:
        """Return the record in this folder, or None if there is no valid one."""
        try:
            with open_folder(folder) as own:
                record = cls(**json.loads(own.read(NAME, MAX_BYTES)))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = (record.start_time, record.containment, record.cgroup or "", record.runtime or "")
        if type(record.pid) is not int or record.pid < 2 or not all(isinstance(text, str) for text in texts):
            return None
        return record

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove it. A record that can't be removed (the agent may have put anything there) does no harm: see above."""
        with contextlib.suppress(OSError), open_folder(folder) as own:
            own.unlink(NAME)

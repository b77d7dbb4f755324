"""What the operator allows, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and permissions of one engine. Times are in seconds."""

    data_dir: Path
    workspace_roots: tuple[Path, ...]
    permission_modes: frozenset[str]
    max_sessions: int
    max_processes: int
    pool_size: int
    max_queued_turns: int
    turn_timeout: float
    permission_timeout: float
    session_timeout: float
    process_wait: float

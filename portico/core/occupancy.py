"""How full an engine is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occupancy:
    """``sessions``: those that are open, by state. ``processes`` of at most ``process_limit``, those of the pool
    included, of which ``pooled`` have no session yet; ``process_queue`` turns wait for one. ``turn_queue`` turns wait
    behind others of their session. ``permissions`` wait for an answer. ``observers``: how many sessions have
    something that an observer was not told yet, by its name.
    """

    sessions: Mapping[str, int]
    processes: int
    process_limit: int
    process_queue: int
    pooled: int
    turn_queue: int
    permissions: int
    observers: Mapping[str, int]

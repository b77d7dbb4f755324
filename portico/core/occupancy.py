"""The occupancy of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The occupancy of an engine. ``sessions`` counts the open sessions by state. ``processes`` of at most
    ``process_limit`` are in use; ``pooled`` of these have no session yet. ``process_queue`` turns wait for a process,
    ``turn_queue`` turns wait behind others of their session, and ``permissions`` requests wait for an answer.
    ``observers`` counts the sessions with events that an observer has not been told of yet, by the observer's name.
    """

    sessions: Mapping[str, int]
    processes: int
    process_limit: int
    process_queue: int
    pooled: int
    turn_queue: int
    permissions: int
    observers: Mapping[str, int]

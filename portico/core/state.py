"""The states of a session, and the only ways from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    STARTING = "starting"  # a turn waits for its agent
    IDLE = "idle"
    RUNNING = "running"
    WAITING = "waiting"  # a turn waits for leave to use a tool
    HIBERNATED = "hibernated"  # open, without a process
    DORMANT = "dormant"  # history only; the next query opens it again
    CLOSED = "closed"
    FAILED = "failed"  # a fault of ours; the history stays readable


_END = {State.CLOSED, State.FAILED}

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.IDLE: frozenset({State.STARTING, State.RUNNING, State.HIBERNATED, State.DORMANT, *_END}),
    State.STARTING: frozenset({State.RUNNING, State.IDLE, *_END}),
    State.RUNNING: frozenset({State.WAITING, State.STARTING, State.IDLE, *_END}),
    State.WAITING: frozenset({State.RUNNING, State.STARTING, State.IDLE, *_END}),
    State.HIBERNATED: frozenset({State.STARTING, State.IDLE, State.DORMANT, *_END}),
    State.DORMANT: frozenset({State.STARTING, State.IDLE, *_END}),
    State.CLOSED: frozenset(),
    State.FAILED: frozenset({State.CLOSED}),
}
"""From each state, the states that may follow. Nothing follows ``closed``."""

OPEN = frozenset({State.STARTING, State.IDLE, State.RUNNING, State.WAITING, State.HIBERNATED})
"""The states that count against ``max_sessions``."""


def follow(before: State, after: State) -> State:
    """Check one step. Raises RuntimeError for one that the table does not have: a fault of the caller's code."""
    if after not in TRANSITIONS[before]:
        raise RuntimeError(f"a session cannot go from {before} to {after}")
    return after

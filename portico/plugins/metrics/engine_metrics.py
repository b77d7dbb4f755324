"""The numbers that an engine reports about itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from portico.core.occupancy import Occupancy
from portico.core.sessions import Sessions
from portico.core.state import State
from portico.metrics.collectors import Reading

OPEN = (State.STARTING, State.IDLE, State.RUNNING, State.WAITING, State.HIBERNATED)


def engine_families(engine: Sessions) -> Sequence[Reading]:
    def one(name: str, text: str, number: Callable[[Occupancy], float]) -> Reading:
        return Reading(name, text, read=lambda: {(): number(engine.occupancy())})

    return [
        Reading(
            "portico_sessions",
            "Open sessions, by state.",
            "state",
            read=lambda: (
                dict.fromkeys(((str(state),) for state in OPEN), 0)
                | {(state,): number for state, number in engine.occupancy().sessions.items()}
            ),
        ),
        one("portico_processes", "Agent processes, those started ahead included.", lambda now: now.processes),
        one("portico_processes_limit", "The setting max_processes.", lambda now: now.process_limit),
        one("portico_processes_waiting", "Turns that wait for a process.", lambda now: now.process_queue),
        one("portico_pool_ready", "Agents started ahead that no session has yet.", lambda now: now.pooled),
        one("portico_turns_queued", "Turns that wait behind others of their session.", lambda now: now.turn_queue),
        one("portico_permissions_waiting", "Permission requests without an answer.", lambda now: now.permissions),
        Reading(
            "portico_observer_sessions_behind",
            "Sessions with events that an observer was not told of yet.",
            "observer",
            read=lambda: {(name,): number for name, number in engine.occupancy().observers.items()},
        ),
    ]

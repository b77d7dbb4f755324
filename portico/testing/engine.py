"""A real engine for tests of what stands before it (transports, routes) or listens to it (observers)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from portico.core.agent import AgentDriver
from portico.core.engine import Engine
from portico.core.observer import Observer
from portico.core.policy import Policy
from portico.core.store import EventStore
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.background import background

_LIMITS: Mapping[str, Any] = {
    "permission_modes": ("default", "acceptEdits", "plan", "dontAsk"),
    "max_sessions": 200,
    "max_processes": 200,
    "pool_size": 0,
    "max_queued_turns": 8,
    "turn_timeout": 1200.0,
    "permission_timeout": 1200.0,
    "session_timeout": 3600.0,
    "process_wait": 60.0,
    "setting_sources": frozenset(),
    "allowed_tools": (),
    "disallowed_tools": (),
}


def generous_policy(folder: Path, **limits: Any) -> Policy:
    """A `Policy` that keeps all in ``folder`` and gets in nobody's way; ``limits`` are its fields, by name."""
    places: Mapping[str, Any] = {"data_dir": folder, "workspace_roots": (folder / "workspaces",)}
    return Policy(**{**places, **_LIMITS, **limits})


@asynccontextmanager
async def scripted_engine(
    folder: Path,
    *,
    driver: AgentDriver | None = None,
    store: EventStore | None = None,
    observers: Mapping[str, Observer] | None = None,
    **limits: Any,
) -> AsyncIterator[Engine]:
    """A running engine, stopped at the end: `EchoDriver`'s agents and a `MemoryStore`, unless others are given.

    ``limits`` are fields of `Policy`. There is no pool, unless ``pool_size`` asks for one.
    """
    driver = EchoDriver() if driver is None else driver
    engine = Engine(
        store=MemoryStore() if store is None else store,
        drivers={driver.name: driver},
        default_driver=driver.name,
        default_model=None,
        policy=generous_policy(folder, **limits),
        observers=observers,
    )
    async with background() as tasks:
        await tasks.start(engine.run)
        yield engine

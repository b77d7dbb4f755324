"""The store ``memory``: it keeps everything in memory, and nothing after a restart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.core.store import EventStore
    from portico.plugins.context import Context


def _create(context: Context) -> EventStore:
    from portico.plugins.memory_store.store import MemoryStore

    return MemoryStore()


@hookimpl
def portico_stores() -> Mapping[str, Callable[[Context], EventStore]]:
    return {"memory": _create}

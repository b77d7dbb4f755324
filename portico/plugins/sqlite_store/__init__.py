"""The store ``sqlite``: sessions and their events in one SQLite file, ``portico.db`` in the data folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.core.store import EventStore
    from portico.plugins.context import Context


def _create(context: Context) -> EventStore:
    from portico.plugins.sqlite_store.store import SqliteStore

    settings = context.settings
    return SqliteStore(
        context.data_dir / "portico.db",
        sync=settings.store_sync,
        retention_days=settings.retention_days,
        retention_mb=settings.retention_mb,
    )


@hookimpl
def portico_stores() -> Mapping[str, Callable[[Context], EventStore]]:
    return {"sqlite": _create}

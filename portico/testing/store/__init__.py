"""The requirements on every store, as a class of tests.

class TestMyStore(StoreConformance):
    def create(self, folder: Path) -> EventStore:
        return MyStore(folder / "my.db")
"""

from __future__ import annotations

from portico.testing.store.event_tests import EventTests
from portico.testing.store.fencing_tests import FencingTests
from portico.testing.store.housekeeping_tests import HousekeepingTests
from portico.testing.store.page_tests import PageTests
from portico.testing.store.record_tests import RecordTests
from portico.testing.store.samples import (
    FOREIGN_CURSORS,
    MIB,
    SLACK_BYTES,
    STRANGE_BYTES,
    WHOLE,
    event,
    read_all,
    record,
    turn,
)

__all__ = [
    "FOREIGN_CURSORS",
    "MIB",
    "SLACK_BYTES",
    "STRANGE_BYTES",
    "WHOLE",
    "StoreConformance",
    "event",
    "read_all",
    "record",
    "turn",
]


class StoreConformance(EventTests, FencingTests, RecordTests, PageTests, HousekeepingTests):
    """Subclass it, and say in `create` how the store is made.

    Needs pytest and anyio's plugin for it, which comes with anyio. Each test has a fresh folder.
    """

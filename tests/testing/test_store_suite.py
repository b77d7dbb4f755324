"""The built-in stores do what every store has to do."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from portico.core.agent import AgentOptions
from portico.core.store import SessionRecord
from portico.plugins.memory_store.store import MemoryStore
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.store import WHOLE, StoreConformance, record


class TestMemoryStore(StoreConformance):
    durable = False

    def create(self, folder: Path) -> MemoryStore:
        return MemoryStore()


class TestSqliteStore(StoreConformance):
    def create(self, folder: Path) -> SqliteStore:
        return SqliteStore(folder / "portico.db")


class TestSqliteStoreWithFullSync(StoreConformance):
    """Everything that is written goes through a thread."""

    def create(self, folder: Path) -> SqliteStore:
        return SqliteStore(folder / "portico.db", sync="full")


def test_the_suite_tries_every_field() -> None:
    plain, whole = record(), record(**WHOLE)
    for field in fields(SessionRecord):
        if field.name not in ("session_id", "last_seq"):  # of which other tests tell
            assert getattr(whole, field.name) != getattr(plain, field.name)
    for field in fields(AgentOptions):
        assert getattr(whole.options, field.name) != getattr(plain.options, field.name)

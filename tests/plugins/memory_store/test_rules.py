from pathlib import Path

from portico.plugins.memory_store.store import MemoryStore
from tests.plugins.store_rules import StoreConformance


class TestMemoryStore(StoreConformance):
    def make_store(self, folder: Path) -> MemoryStore:
        return MemoryStore()

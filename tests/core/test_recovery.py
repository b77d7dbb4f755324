"""A server finds each open session of the one before, and finds it once."""

from __future__ import annotations

from pathlib import Path

import pytest

from portico.core import recovery
from portico.core.accounts import NoAccounts
from portico.core.principal import Principal
from portico.core.requests import NewSession
from portico.core.state import OPEN, State
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.engine import scripted_engine

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("last", [State.HIBERNATED, State.IDLE])
async def test_each_open_session_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: State) -> None:
    path = tmp_path / "p.db"
    async with scripted_engine(tmp_path, store=SqliteStore(path)) as engine:
        for name in ("a", "b"):
            await engine.create(Principal("ada"), NewSession(session_id=name))
    # Sets of strings have another order in each process.
    monkeypatch.setattr(recovery, "OPEN", (*(state for state in OPEN if state is not last), last))
    for _ in range(2):
        store = SqliteStore(path)
        await store.open()
        try:
            found = [(record.session_id, record.state) async for record in recovery.recover(store, NoAccounts())]
        finally:
            await store.close()
        assert sorted(found) == [("a", State.HIBERNATED), ("b", State.HIBERNATED)]

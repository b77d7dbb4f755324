"""A store under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from portico.core.store import EventStore


class BoundedStore:
    """A store whose every call fails the test where it takes too long."""

    def __init__(self, store: EventStore, seconds: float) -> None:
        self._store = store
        self._seconds = seconds

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with anyio.move_on_after(self._seconds) as scope:
                return await getattr(self._store, name)(*args, **kwargs)
            assert not scope.cancelled_caught, f"{name}() took longer than {self._seconds} s"

        return call


class StoreHarness:
    """The part that the author of a store completes, and what its tests stand on."""

    pytestmark = pytest.mark.anyio

    durable = True
    """True if `create`, called again with the same folder, gives a store with the contents of the one before."""

    call_seconds = 60.0
    """The longest time that a call may take."""

    def create(self, folder: Path) -> EventStore:
        """A store that was not opened yet, and drops nothing while the test runs (no retention, or a long one).

        Its place is named by ``folder``, which is empty at first: a file in it, or a database of that name.
        """
        raise NotImplementedError

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[EventStore]:
        async with self.opened(tmp_path) as store:
            yield store

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[EventStore]:
        store = cast(EventStore, BoundedStore(self.create(folder), self.call_seconds))
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    def _skip_unless_durable(self) -> None:
        if not self.durable:
            pytest.skip("a store with durable = False keeps nothing over a restart")

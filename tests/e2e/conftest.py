"""A server for all tests of a file that need none of their own: with the settings of `running_server`."""

from collections.abc import AsyncIterator

import pytest

from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, talk


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[Talk]:
    """Its sessions are purged, so that the next test may use their ids."""
    async with talk(server) as client:
        yield client
        await client.purge_all()

"""One real server for the tests of a file."""

from collections.abc import AsyncIterator

import pytest

from tests.support.server import RunningServer, running_server


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    # Some tests leave a turn running: it must not hold up the stop.
    settings = {"PORTICO_MAX_SESSIONS": "100", "PORTICO_DRAIN_TIMEOUT": "0.5"}
    async with running_server(tmp_path_factory.mktemp("server"), **settings) as server:
        yield server

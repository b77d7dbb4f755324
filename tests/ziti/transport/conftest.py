"""On the event loop that `portico serve` uses: these tests wait for processes, and both would take twice as long."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}

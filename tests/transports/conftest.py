"""Everything that touches a socket runs on both event loops: asyncio's own and the one that `portico serve` uses."""

from typing import Any

import pytest


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}

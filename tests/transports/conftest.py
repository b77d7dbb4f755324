"""Everything that touches a socket runs on both event loops: the one that `portico serve` uses, and, among the long
tests, asyncio's own."""

from typing import Any

import pytest


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, marks=pytest.mark.long, id="asyncio"), pytest.param(True, id="uvloop")],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}

"""Fixtures that every test may use."""

import hypothesis
import pytest

# A change that breaks nothing must not fail: the same examples every time, and no limit on the time of one or of making
# them, which would measure the machine. `--hypothesis-profile=explore` has others.
SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=SLOW)
hypothesis.settings.register_profile("explore", deadline=None, suppress_health_check=SLOW)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"

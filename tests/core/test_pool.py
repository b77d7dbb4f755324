"""The pool's behaviour with a driver whose agents do not last."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from portico.core import pool
from portico.core.agent import AgentSpec
from portico.core.principal import Principal
from portico.core.requests import NewSession
from portico.testing.engine import scripted_engine
from portico.testing.scripted import ScriptedAgent, ScriptedDriver
from tests.support.limits import HANG_SECONDS

ADA = Principal("ada")

pytestmark = pytest.mark.anyio


class Mortal(ScriptedDriver):
    """Its first ``deaths`` agents end as soon as they have started."""

    def __init__(self, deaths: int) -> None:
        super().__init__()
        self.deaths = deaths
        self.starts: list[float] = []

    async def start(self, spec: AgentSpec) -> ScriptedAgent:
        agent = await super().start(spec)
        self.starts.append(anyio.current_time())
        if len(self.starts) <= self.deaths:
            agent.die()
        return agent


async def test_agents_that_die_at_once_are_started_again_more_and_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "BACK_OFF", (0.05, 60.0))
    driver = Mortal(deaths=4)
    async with scripted_engine(tmp_path, driver=driver, pool_size=1) as engine:
        with anyio.fail_after(HANG_SECONDS):
            while len(driver.starts) < 5:
                await anyio.sleep(0.01)
        pauses = [after - before for before, after in zip(driver.starts, driver.starts[1:], strict=False)]
        assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4), strict=True))
        assert all(agent.closes == 1 for agent in driver.agents[:4])
        await engine.create(ADA, NewSession(session_id="s"))
        with anyio.fail_after(HANG_SECONDS):
            while not driver.agents[4].claims:  # the one that lives is as good as any
                await anyio.sleep(0.01)

"""A host inside another program: no listener, and nothing of the process changed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from portico.config.load import Loaded, load
from portico.core.errors import Unavailable
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn
from portico.plugins.manager import load_plugins
from portico.server.hosting import hosting

pytestmark = pytest.mark.anyio
ALICE = Principal("alice")
REGISTRY = load_plugins().registry


def settings(folder: Path, **options: str) -> Loaded:
    return load({"data_dir": str(folder / "data"), "driver": "echo", **options}, {}, folder)


def process() -> tuple[object, ...]:
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)]
    return signals, dict(os.environ), Path("/proc/self/status").read_text().split("Seccomp")[0].split("CapInh")[1]


async def test_a_host_runs_turns_keeps_them_and_changes_nothing_of_the_process(tmp_path: Path) -> None:
    before = process()
    async with hosting(settings(tmp_path), REGISTRY, os.environ) as host:
        session = await host.engine.create(ALICE, NewSession(session_id="s"))
        assert session["state"] == "idle"
        turn = await host.engine.query(ALICE, "s", NewTurn(content="hello", turn_id="t"))
        assert process() == before
        with pytest.raises(Unavailable, match="in use by another server"):
            async with hosting(settings(tmp_path), REGISTRY, os.environ):
                pass
    assert host.engine.draining and turn.created and process() == before
    async with hosting(settings(tmp_path), REGISTRY, os.environ) as host:
        reader = await host.engine.reader(ALICE, "s", after=0, turn_id="t")
        kinds = []
        while events := await reader.read():
            kinds += [event.type for event in events]
        assert kinds[0] == "query" and kinds[-1] == "complete"


async def test_a_host_makes_the_transports_that_are_asked_for_and_no_others(tmp_path: Path) -> None:
    async with hosting(settings(tmp_path), REGISTRY, os.environ, transports=["http"]) as host:
        assert list(host.transports) == ["http"]
    async with hosting(settings(tmp_path), REGISTRY, os.environ) as host:
        assert not host.transports

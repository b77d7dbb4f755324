"""Transports that cannot start, or die, and what becomes of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from portico.core.sessions import Sessions
from portico.server import serving
from portico.server.serving import Serving
from portico.testing.engine import scripted_engine
from portico.transports.base import TransportFailed
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio


class Odd:
    """A transport that does as it is told."""

    name = "odd"

    def __init__(self, what: str) -> None:
        self._what = what
        self.die = anyio.Event()

    async def serve(self, engine: Sessions, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        match self._what:
            case "refuses":
                raise TransportFailed("the port is taken")
            case "raises":
                raise ZeroDivisionError("no")
            case "returns":
                return
            case "hangs":
                await anyio.sleep_forever()
        task_status.started("odd:here")
        await self.die.wait()
        if self._what == "group":
            async with anyio.create_task_group():
                raise ZeroDivisionError("later")
        if self._what == "dies":
            raise ZeroDivisionError("later")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("refuses", "the port is taken"),
        ("raises", "the transport odd can't start: ZeroDivisionError: no"),
        ("returns", "the transport odd can't start: it ended by itself"),
        ("hangs", "the transport odd is not reachable after 0.2 s"),
    ],
)
async def test_one_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, reason: str
) -> None:
    monkeypatch.setattr(serving, "START_SECONDS", 0.2)
    async with scripted_engine(tmp_path) as engine:
        with pytest.raises((TransportFailed, ExceptionGroup)) as caught:
            async with anyio.create_task_group() as tasks:
                await Serving(engine, {"odd": Odd(what)}).start(tasks)
        error: Any = caught.value
        while isinstance(error, ExceptionGroup):
            (error,) = error.exceptions
        assert isinstance(error, TransportFailed) and error.detail == reason


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("dies", "ZeroDivisionError: later"),
        ("group", "ZeroDivisionError: later"),
        ("ends", "it ended by itself"),
    ],
)
async def test_one_that_dies_leaves_the_others_until_none_is_left(tmp_path: Path, what: str, reason: str) -> None:
    async with scripted_engine(tmp_path) as engine, anyio.create_task_group() as tasks:
        one, other = Odd(what), Odd("ends")
        running = Serving(engine, {"one": one, "other": other})
        assert await running.start(tasks) == ("odd:here", "odd:here")
        one.die.set()
        with anyio.fail_after(HANG_SECONDS):
            while not engine.failed:
                await anyio.lowlevel.checkpoint()
        assert engine.failed == {"transport one": reason}
        assert not running.over.is_set()
        other.die.set()
        with anyio.fail_after(HANG_SECONDS):
            await running.over.wait()

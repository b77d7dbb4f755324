"""Helpers that look at what has arrived, and at what this process holds."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest

from portico.core.events import Delta
from portico.testing.transport.transport_client import STEP


def delta(content: str) -> Delta:
    return Delta(type="delta", content=content)


def refusal_text(code: str | None, expected: str) -> str:
    return f"it is to be refused with {expected}, and was " + (f"refused with {code}" if code else "taken")


def compare(seen: Sequence[Mapping[str, Any]], stored: Sequence[Mapping[str, Any]], who: str) -> None:
    """Fails the test where these are not the same events; says where they part."""
    for number, (one, other) in enumerate(zip(seen, stored, strict=False)):
        assert one == other, f"{who} got as event {number + 1} {str(one)[:300]} instead of {str(other)[:300]}"
    assert len(seen) == len(stored), f"{who} got {len(seen)} events instead of {len(stored)}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def possessions() -> dict[str, int]:
    return {"descriptors": psutil.Process().num_fds(), "tasks": len(asyncio.all_tasks())}


async def settled(seconds: float, before: Mapping[str, int] | None = None) -> None:
    """Wait until there is not more than ``before`` (else: until nothing changes), but not for ever."""
    with anyio.move_on_after(seconds):
        last: dict[str, int] = {}
        while any(count > (before or last).get(what, 0) for what, count in possessions().items()):
            last = possessions()
            gc.collect()  # connections that are over may hang in cycles
            await anyio.sleep(STEP)


async def fewer_descriptors(than: int, seconds: float) -> None:
    """Wait until this process has fewer descriptors, but not for ever."""
    with anyio.move_on_after(seconds):
        while psutil.Process().num_fds() >= than:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(STEP)


def check_log(caplog: pytest.LogCaptureFixture) -> None:
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, f"the log has an error: {errors[0][:500]}"

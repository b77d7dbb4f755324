"""Interrupting a turn in each state that it can be in; the session is usable at once afterwards."""

from __future__ import annotations

import anyio
import pytest

from tests.support.agents import gone_soon, processes_with, unique_seconds
from tests.support.limits import HANG_SECONDS
from tests.support.talk import Talk, script, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


async def interrupted(client: Talk) -> None:
    """Interrupts; the turn ends and says so, and the next one runs."""
    assert (await client.http.post("/sessions/s/interrupt")).status_code == 202
    complete = await client.until("s", "complete", turn_id="t")
    assert complete["stop_reason"] == "interrupted"
    assert text(await client.turn("s", script({"say": "fine"}))) == "fine"


async def test_while_a_tool_runs_its_children_die(client: Talk) -> None:
    seconds = unique_seconds()
    tool = {"name": "Bash", "input": {"command": f"for n in 1 2; do sleep {seconds} & done; wait"}}
    await client.open(session_id="s", allowed_tools=["Bash"])
    await client.start("s", script({"tool": tool}), turn_id="t")
    await client.until("s", "tool_use")
    with anyio.fail_after(HANG_SECONDS):
        while len(children := processes_with(seconds)) < 2:
            await anyio.sleep(0.05)
    await interrupted(client)
    assert gone_soon(children)


async def test_while_the_api_says_nothing(client: Talk) -> None:
    await client.open(session_id="s")
    await client.turn("s", "hello")
    await client.start("s", script({"say": "one two three", "stall": 2}), turn_id="t")
    await client.until("s", "delta", turn_id="t")
    await interrupted(client)


async def test_while_the_api_is_asked_again(client: Talk) -> None:
    await client.open(session_id="s")
    await client.turn("s", "hello")
    await client.start("s", script({"error": 500}), turn_id="t")
    await client.until("s", "notice", name="api_retry")
    await interrupted(client)


async def test_right_behind_the_query(client: Talk) -> None:
    await client.open(session_id="s")
    await client.turn("s", "hello")
    await client.start("s", script({"words": 1000, "say": "w ", "gap_ms": 50}), turn_id="t")
    await interrupted(client)

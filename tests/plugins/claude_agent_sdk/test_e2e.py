"""The driver in a server, as clients see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.server import running_server
from tests.support.talk import only, script, talk, text

pytest.importorskip("claude_agent_sdk")
pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


async def test_a_server_with_this_driver_does_turns_and_says_what_it_does_not(tmp_path: Path) -> None:
    variables = {"PORTICO_DRIVER": "claude-agent-sdk", "PORTICO_PERMISSION_MODES": "default,acceptEdits"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s")
        assert (await client.session("s"))["driver"] == "claude-agent-sdk"
        events = await client.turn("s", script({"say": "one two three"}))
        assert text(events) == "one two three"
        assert only(events, "complete")["stop_reason"] == "end_turn"

        await client.start("s", script({"stall": 1, "say": "one two"}), turn_id="t")
        await client.until("s", "delta", turn_id="t")
        steering = {"query": "faster", "if_busy": "steer"}
        refused = await client.http.post("/sessions/s/turns", json=steering)
        assert (refused.status_code, refused.json()["code"]) == (409, "not_supported")
        assert (await client.http.post("/sessions/s/interrupt")).status_code == 202
        assert (await client.until("s", "complete", turn_id="t"))["stop_reason"] == "interrupted"

        changed = await client.http.patch("/sessions/s", json={"permission_mode": "acceptEdits"})
        assert changed.status_code == 200
        await client.turn("s", script({"tool": {"name": "Write", "input": {"file_path": "a.txt", "content": "a"}}}))
        assert (Path((await client.session("s"))["cwd"]) / "a.txt").exists()

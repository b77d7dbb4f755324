"""The events and answers of real sessions are as the OpenAPI document says, and hold nothing that it does not name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.schemas import flaws, strict
from tests.support.server import running_server
from tests.support.talk import script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

EVERYTHING = {
    *("session", "query", "delta", "thinking", "message", "tool_use", "tool_result", "permission_request"),
    *("permission_resolved", "notice", "error", "complete"),
}


@pytest.mark.long
async def test_each_event_of_real_sessions_is_as_the_document_says(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_PERMISSION_TIMEOUT="1") as server, talk(server) as client:
        document = (await client.http.get(f"{server.url}/openapi.json")).json()
        session = await client.open(session_id="s")
        assert flaws(strict(document, "SessionView"), session) == []
        assert "200" in document["paths"]["/metrics"]["get"]["responses"]  # a plugin's, that says what it is
        write = {"name": "Write", "input": {"file_path": str(Path(session["cwd"]) / "f"), "content": "x"}}
        await client.turn("s", script({"think": "hm", "say": "let me see", "tool": write}, {"say": "denied"}))
        await client.turn("s", script({"error": 400}))
        server.kill_agents()
        await client.turn("s", script({"say": "back again"}))
        events = await client.history("s")
        validator = strict(document, "Event")
        assert [(event, found) for event in events if (found := flaws(validator, event))] == []
        assert {event["type"] for event in events} >= EVERYTHING - {"notice"}
        assert flaws(strict(document, "SessionView"), await client.session("s")) == []

"""A clock that jumps: what clients were told to expire then has expired, and the answers say so."""

from __future__ import annotations

import json
import time
from pathlib import Path

import anyio
import pytest

from portico.core.errors import Unauthenticated
from portico.core.principal import Principal
from portico.core.tickets import Tickets
from tests.support.limits import HANG_SECONDS
from tests.support.serving import serving

pytestmark = pytest.mark.anyio


async def test_a_clock_that_jumps_over_what_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, permission_timeout=300) as served:
        one, http = "/claude/sessions/s", served.client
        await served.session()
        query = json.dumps({"ask": {"tool_name": "Bash", "input": {"command": "ls"}}})
        await http.post(f"{one}/turns", json={"query": query, "turn_id": "t"})
        with anyio.fail_after(HANG_SECONDS):
            while not (pending := (await http.get(one)).json()["pending_permissions"]):
                await anyio.sleep(0.02)
            now = time.time
            monkeypatch.setattr("time.time", lambda: now() + 301)
            answer = await http.post(f"{one}/permissions/{pending[0]['request_id']}", json={"behavior": "allow"})
            late = answer.json()
            assert (answer.status_code, late["code"], late["reason"]) == (409, "already_resolved", "timeout")
            while (await http.get(one)).json()["pending_permissions"]:
                await anyio.sleep(0.02)
            again = await http.post(f"{one}/permissions/{pending[0]['request_id']}", json={"behavior": "allow"})
            assert (again.json()["code"], again.json()["reason"]) == ("already_resolved", "timeout")
        events = (await http.get(f"{one}/events?live=false")).json()["events"]
        (resolved,) = [event for event in events if event["type"] == "permission_resolved"]
        assert (resolved["behavior"], resolved["reason"]) == ("deny", "timeout")


def test_no_ticket_is_made_of_credentials_that_have_expired() -> None:
    with pytest.raises(Unauthenticated, match="have expired"):
        Tickets(b"k" * 32).make(Principal("a", expires=time.time() - 1), "s", "i", "read", 60)

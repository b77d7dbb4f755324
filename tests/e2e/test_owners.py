"""A principal sees and steers its own sessions; an admin all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.server import running_server
from tests.support.talk import script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

TOKENS = "alice:alice-secret-alice,bob:bob-secret-bob-bob,root:root-secret-root:admin"


async def test_what_is_somebody_elses_is_unknown(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path, PORTICO_AUTH_TOKENS=TOKENS) as server,
        talk(server, "alice-secret-alice") as alice,
        talk(server, "bob-secret-bob-bob") as bob,
        talk(server, "root-secret-root") as admin,
    ):
        session = await alice.open(session_id="s")
        assert session["owner"] == "alice"
        await alice.start("s", script({"words": 200, "say": "w ", "gap_ms": 50}), turn_id="t")
        await alice.until("s", "delta")
        attempts = [
            ("GET", "/sessions/s", None),
            ("DELETE", "/sessions/s", None),
            ("GET", "/sessions/s/events?live=false", None),
            ("GET", "/sessions/s/events", None),
            ("GET", "/stream/s?query=x", None),
            ("POST", "/stream/s", {"query": "x"}),
            ("GET", "/stream/s?query=x&turn_id=t", None),
            ("POST", "/sessions/s/turns", {"query": "x"}),
            ("POST", "/sessions/s/interrupt", None),
            ("POST", "/sessions/s/permissions/r", {"behavior": "allow"}),
        ]
        for method, path, body in attempts:
            other = await bob.http.request(method, path, json=body)
            assert (other.status_code, other.json()["code"]) == (404, "session_not_found"), path
        assert (await bob.http.get("/sessions")).json()["sessions"] == []
        assert (await bob.http.post("/sessions", json={"session_id": "s"})).status_code == 409
        assert len((await admin.http.get("/sessions")).json()["sessions"]) == 1
        assert (await admin.http.post("/sessions/s/interrupt")).status_code == 202
        complete = await alice.until("s", "complete")
        assert complete["stop_reason"] == "interrupted"
        assert (await alice.session("s"))["turns"] == 1


async def test_without_a_token_or_with_a_wrong_one_nobody_gets_in(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server, "wrong") as client:
        wrong = await client.http.get("/sessions")
        client.http.headers.pop("Authorization")
        none = await client.http.get("/sessions")
        in_url = await client.http.get(f"/sessions?token={server.token}&access_token={server.token}")
        for answer in (wrong, none, in_url):
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert (await client.http.get(f"{server.url}/healthz")).status_code == 200
        assert (await client.http.get(f"{server.url}/readyz")).status_code == 200

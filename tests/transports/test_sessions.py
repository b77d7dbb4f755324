import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import serving

pytestmark = pytest.mark.anyio

BOB = {"authorization": "Bearer bob-secret"}


async def test_a_session_from_its_creation_to_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        created = await served.client.post(
            "/claude/sessions", json={"session_id": "a.b", "title": "T", "metadata": {"k": 1}}
        )
        assert created.status_code == 201
        assert created.headers["location"] == "/claude/sessions/a.b"
        session = created.json()
        assert session["state"] == "idle" and session["owner"] == "alice" and session["metadata"] == {"k": 1}
        assert set(session) == {
            *("session_id", "title", "state", "driver", "model", "cwd", "permission_mode", "owner", "created_at"),
            *("last_active_at", "last_seq", "turns", "queued", "pending_permissions", "usage", "cost_usd", "metadata"),
            *("usage_by_model", "cost_basis", "budget_usd", "tasks", "schedules"),
            *("permission_rules", "add_dirs", "effort", "fallback_model"),
        }
        assert (await served.client.get(created.headers["location"])).json() == session
        head = await served.client.head(created.headers["location"])
        assert head.status_code == 200 and head.content == b""
        listed = (await served.client.get("/claude/sessions")).json()
        assert listed == {"sessions": [session], "next_cursor": None}

        assert (await served.client.delete("/claude/sessions/a.b")).status_code == 204
        assert (await served.client.get("/claude/sessions/a.b")).json()["state"] == "closed"
        assert (await served.client.delete("/claude/sessions/a.b?purge=true")).status_code == 204
        assert (await served.client.get("/claude/sessions/a.b")).status_code == 404


async def test_a_list_comes_in_pages(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for n in range(5):
            await served.session(f"s{n}")
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 2, "state": "idle"}
        while True:
            page = (await served.client.get("/claude/sessions", params=query)).json()
            seen += [session["session_id"] for session in page["sessions"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert sorted(seen) == ["s0", "s1", "s2", "s3", "s4"]


async def test_what_is_somebody_elses_is_unknown(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        requests = [
            ("GET", "/claude/sessions/s"),
            ("DELETE", "/claude/sessions/s"),
            ("POST", "/claude/sessions/s/interrupt"),
            ("GET", "/claude/sessions/s/events"),
            ("GET", "/claude/stream/s?query=hi"),
        ]
        for method, path in requests:
            answer = await served.client.request(method, path, headers=BOB)
            assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found"), path
        turn = await served.client.post("/claude/sessions/s/turns", json={"query": "hi"}, headers=BOB)
        assert turn.status_code == 404
        assert (await served.client.get("/claude/sessions", headers=BOB)).json()["sessions"] == []
        admin = {"authorization": "bearer admin-secret"}
        assert (await served.client.get("/claude/sessions/s", headers=admin)).status_code == 200


async def test_a_turn_without_anybody_watching(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        body = {"query": [{"type": "text", "text": "hi"}], "turn_id": "t"}
        turn = await served.client.post("/claude/sessions/s/turns", json=body)
        assert turn.status_code == 202
        assert turn.json() == {"turn_id": "t", "session_id": "s", "state": "running"}
        again = await served.client.post("/claude/sessions/s/turns", json=body)
        assert again.status_code == 202
        async with served.client.stream("GET", "/claude/stream/s?query=x&turn_id=t") as stream:
            text = (await stream.aread()).decode()
        assert text.count('"type":"query"') == 1 and '"complete"' in text
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 1


async def test_interrupting(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        idle = await served.client.post("/claude/sessions/s/interrupt")
        assert (idle.status_code, idle.json()["code"]) == (409, "not_running")
        endless = json.dumps({"deltas": None, "gap": 0.01})
        async with served.client.stream("GET", "/claude/stream/s", params={"query": endless}) as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if '"delta"' in line:
                    break
            busy = await served.client.post("/claude/sessions/s/turns", json={"query": "x", "if_busy": "reject"})
            assert (busy.status_code, busy.json()["code"]) == (409, "busy")
            assert (await served.client.post("/claude/sessions/s/interrupt")).status_code == 202
            rest = [line async for line in lines if line.startswith("data: ")]
        assert json.loads(rest[-1][6:])["stop_reason"] == "interrupted"


async def test_an_unknown_permission_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        answer = await served.client.post("/claude/sessions/s/permissions/none", json={"behavior": "allow"})
        assert answer.status_code == 404
        wrong = await served.client.post("/claude/sessions/s/permissions/none", json={"behaviour": "allow"})
        assert wrong.status_code == 422
        assert {error["loc"][0] for error in wrong.json()["errors"]} == {"behavior", "behaviour"}


async def test_the_idempotency_key_is_the_turn_id(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        path, key = "/claude/sessions/s/turns", {"idempotency-key": "k"}
        assert (await served.client.post(path, json={"query": "a"}, headers=key)).json()["turn_id"] == "k"
        same = await served.client.post(path, json={"query": "a", "turn_id": "k"}, headers=key)
        assert same.status_code == 202
        other = await served.client.post(path, json={"query": "a", "turn_id": "l"}, headers=key)
        assert (other.status_code, other.json()["code"]) == (422, "turn_id_mismatch")
        bad = await served.client.post(path, json={"query": "a"}, headers={"idempotency-key": "no blanks"})
        assert bad.json()["errors"][0]["loc"] == ["turn_id"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "malformed"),
        (b"[]", {}, 400, "malformed"),
        (b'{"title":NaN}', {}, 400, "malformed"),
        (b'{"a":' * 50_000, {}, 400, "malformed"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": ""}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": "application/json; charset=latin-1"}, 415, "unsupported_media_type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": "Application/JSON; charset=UTF-8"}, 201, None),
        (b"", {"content-type": ""}, 201, None),
        (b'{"title":"' + b"x" * 1024 * 1024 + b'"}', {}, 413, "too_large"),
        (b'{"sesion_id":"a"}', {}, 422, "invalid"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_bodies(tmp_path: Path, body: bytes, headers: dict[str, str], status: int, code: str | None) -> None:
    async with serving(tmp_path) as served:
        answer = await served.client.post(
            "/claude/sessions", content=body, headers={"content-type": "application/json", **headers}
        )
        assert (answer.status_code, answer.json().get("code")) == (status, code)
        if code is not None:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == status
        assert (await served.client.get("/claude/sessions")).status_code == 200


async def test_what_there_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for path in ("/", "/claude", "/claude/sessions/", "/claude/sessions/a%2Fb", "/claude/nothing", "/%ff"):
            answer = await served.client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
        for method, path, allow in (
            ("PUT", "/claude/sessions", "GET, HEAD, POST"),
            ("PUT", "/claude/sessions/s", "DELETE, GET, HEAD, PATCH"),
            ("OPTIONS", "/claude/stream/s", "GET, POST"),
            ("GET", "/claude/sessions/s/turns", "POST"),
            ("POST", "/healthz", "GET, HEAD"),
        ):
            answer = await served.client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, allow), path
            assert answer.json()["code"] == "method_not_allowed"

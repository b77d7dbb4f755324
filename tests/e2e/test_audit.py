"""The audit log of a running server: who did what, from where, and what became of it; and nothing else."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.mounted import MOUNTED
from tests.support.server import RunningServer, running_server
from tests.support.websocket import talking

pytestmark = pytest.mark.anyio

TOKENS = "alice:secret-of-alice,bob:secret-of-bob,root:secret-of-root:admin"
Line = dict[str, Any]


@asynccontextmanager
async def audited(folder: Path, *options: str, **variables: str) -> AsyncIterator[RunningServer]:
    settings = {"PORTICO_AUTH_TOKENS": TOKENS, "PORTICO_DRIVER": "echo", **variables}
    async with running_server(folder, *options, **settings) as server:
        server.token = "secret-of-alice"
        yield server


def lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def line(path: Path, action: str, count: int = 1) -> Line:
    """The ``count``th line of ``action``, which comes soon."""
    with anyio.fail_after(HANG_SECONDS):
        while True:
            found = [each for each in lines(path) if each["action"] == action] if path.exists() else []
            if len(found) >= count:
                return found[count - 1]
            await anyio.sleep(0.02)


async def test_each_action_is_a_line_and_what_was_said_is_not(tmp_path: Path) -> None:
    ask = json.dumps({"ask": {"tool_name": "Write", "input": {"file_path": "confidential"}}})
    async with audited(tmp_path) as server, server.http() as alice:
        path = server.data_dir / "audit.jsonl"
        created = await alice.post("/sessions", json={"session_id": "s", "title": "confidential"})
        assert created.status_code == 201
        assert (await line(path, "session.create")).items() >= {
            "outcome": "ok",
            "principal": "alice",
            "session_id": "s",
            "from": {"transport": "http", "address": "127.0.0.1"},
        }.items()
        await alice.patch("/sessions/s", json={"metadata": {"a": "confidential"}})
        await alice.post("/sessions/s/turns", json={"query": ask, "turn_id": "t"})
        await alice.post("/sessions/s/turns", json={"query": ask, "turn_id": "t"})  # the same: nothing is changed
        with anyio.fail_after(HANG_SECONDS):
            while not (pending := (await alice.get("/sessions/s")).json()["pending_permissions"]):
                await anyio.sleep(0.02)
        request_id = pending[0]["request_id"]
        await alice.post("/sessions/s/turns", json={"query": "confidential", "turn_id": "u"})
        await alice.delete("/sessions/s/turns/u")
        await alice.post(f"/sessions/s/permissions/{request_id}", json={"behavior": "deny", "message": "confidential"})
        await alice.post(f"/sessions/s/permissions/{request_id}", json={"behavior": "allow"})
        always = {"behavior": "allow", "remember": True}
        await alice.post(f"/sessions/s/permissions/{request_id}", json=always)
        await alice.post("/sessions/s/interrupt")
        ticket = (await alice.post("/sessions/s/tickets", json={})).json()["ticket"]
        asking = (await alice.post("/sessions/s/tickets", json={"scope": "query"})).json()["ticket"]
        refused = await alice.post(f"/sessions/s/turns?ticket={ticket}", json={}, headers={"authorization": ""})
        assert refused.status_code == 401
        del alice.headers["authorization"]
        assert (await alice.post(f"/sessions/s/interrupt?ticket={ticket}")).status_code == 403
        assert (
            await alice.post(f"/sessions/s/permissions/{request_id}?ticket={asking}", json=always)
        ).status_code == 403
        alice.headers["authorization"] = "Bearer secret-of-alice"
        async with talking(server.url, token=server.token, v1=True) as socket:
            await socket.send({"type": "query", "content": "confidential", "turn_id": "w", "id": 1})
            await line(path, "turn.query", 3)
        await alice.delete("/sessions/s?purge=true")
        await line(path, "session.purge")
        found = lines(path)
        text = path.read_text()
        said = [(each["action"], each["outcome"]) for each in found]
        assert [pair for pair in said if pair[0] != "turn.interrupt"] == [
            ("server.start", "ok"),
            ("session.create", "ok"),
            ("session.change", "ok"),
            ("turn.query", "ok"),
            ("turn.query", "ok"),
            ("turn.withdraw", "ok"),
            ("permission.deny", "ok"),
            ("permission.allow", "already_resolved"),
            ("permission.allow", "already_resolved"),
            ("ticket.create", "ok"),
            ("ticket.create", "ok"),
            ("request", "unauthenticated"),
            ("request", "not_allowed"),
            ("permission.allow", "not_allowed"),  # and, as for all that a ticket is not for:
            ("request", "not_allowed"),
            ("turn.query", "ok"),
            ("session.purge", "ok"),
        ]
        assert [each.get("turn_id") for each in found if each["action"].startswith("turn.q")] == ["t", "u", "w"]
        answers = [each for each in found if "request_id" in each]
        assert {each["request_id"] for each in answers} == {request_id}
        assert [each.get("remember") for each in answers] == [None, None, True, True]
        assert (await line(path, "turn.query", 3))["from"] == {"transport": "websocket", "address": "127.0.0.1"}
        for secret in ("confidential", "secret-of-alice", ticket, asking):
            assert secret not in text
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert lines(path)[-1]["action"] == "server.stop"


@pytest.mark.parametrize(
    ("place", "strange"),  # a `Mount` of Starlette's passes no path on that has a line break
    [({}, "x%e2%80%a8%0a%7B%22"), (MOUNTED, "x%e2%80%a8%7B%22")],
    ids=["alone", "mounted"],
)
async def test_who_is_refused_is_a_line(tmp_path: Path, place: dict[str, str], strange: str) -> None:
    async with audited(tmp_path, **place) as server, server.http() as alice, server.http() as bob:
        path = server.data_dir / "audit.jsonl"
        bob.headers["authorization"] = "Bearer secret-of-bob"
        await alice.post("/sessions", json={"session_id": "s"})
        assert (await alice.get("/sessions/none")).status_code == 404  # of nobody
        assert (await bob.get("/sessions/s/events?live=false")).status_code == 404
        assert (await line(path, "session.access"))["principal"] == "bob"
        assert (await bob.post("/sessions/s/interrupt")).status_code == 404
        assert (await line(path, "session.access", 2))["session_id"] == "s"
        assert (await bob.post("/sessions", json={"permission_mode": "bypassPermissions"})).status_code == 403
        assert (await line(path, "session.create", 2))["outcome"] == "not_allowed"
        guess = await bob.get(f"/sessions/{strange}", headers={"authorization": "Bearer guessed"})
        assert guess.status_code == 401
        assert (await line(path, "request"))["path"] == f"{urlsplit(server.api).path}/sessions/{strange}"
        for header, code in (("host", "host_not_allowed"), ("origin", "origin_not_allowed")):
            refused = await bob.post("/sessions", json={}, headers={header: "http://evil.example"})
            assert refused.json()["code"] == code
        assert (await line(path, "request", 2)).get("principal") is None
        assert (await line(path, "request", 3))["outcome"] == "origin_not_allowed"
        long = "s\n\u2028\x85{}" + "x" * 1000
        assert (await bob.post("/sessions", json={"session_id": long})).status_code == 422
        assert (await bob.post("/sessions/s/turns", json={"query": "x"})).status_code == 404
        assert (await alice.post(f"/sessions/s/permissions/{strange}", json={"behavior": "allow"})).status_code == 404
        assert (await line(path, "permission.allow"))["request_id"] == unquote(strange)
        text = path.read_bytes()
        assert "guessed" not in text.decode() and text.isascii()


async def test_a_full_disk_stops_nothing_and_the_loss_is_told(tmp_path: Path) -> None:
    limit = 64 * 1024  # a file can't grow beyond it: as a full disk, for this one file
    async with audited(tmp_path, PORTICO_STORE="memory") as server, server.http() as alice:
        path = server.data_dir / "audit.jsonl"
        await alice.post("/sessions", json={"session_id": "s"})
        await line(path, "session.create")
        with path.open("ab") as file:
            file.write(b"{}\n" * ((limit - path.stat().st_size) // 3))
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        for _ in range(3):
            assert (await alice.patch("/sessions/s", json={"title": "x"})).status_code == 200
        assert (await alice.get(f"{server.url}/readyz")).status_code == 200
        log = tmp_path / "server.log"
        with anyio.fail_after(HANG_SECONDS):
            while "lines of the audit log are lost" not in log.read_text():
                await anyio.sleep(0.02)
        path.rename(path.with_suffix(".old"))
        await alice.patch("/sessions/s", json={"title": "y"})
        assert (await line(path, "audit.lost"))["count"] >= 1
        assert log.read_text().count("lines of the audit log are lost") == 1
    assert all(each.endswith(b"}") for each in path.with_suffix(".old").read_bytes().splitlines())


async def test_what_was_taken_away_is_made_anew_and_sighup_is_a_line(tmp_path: Path) -> None:
    async with audited(tmp_path, "--audit-log", str(tmp_path / "elsewhere.jsonl")) as server, server.http() as alice:
        path = tmp_path / "elsewhere.jsonl"
        await alice.post("/sessions", json={"session_id": "s"})
        await line(path, "session.create")
        path.rename(tmp_path / "rotated")
        os.kill(server.process.pid, 1)
        assert (await line(path, "settings.reload"))["outcome"] == "ok"
        assert [each["action"] for each in lines(tmp_path / "rotated")] == ["server.start", "session.create"]
        assert not (server.data_dir / "audit.jsonl").exists()

import json
import logging
from pathlib import Path

import anyio
import pytest

from portico.core.engine import Engine
from portico.core.store import SessionRecord
from portico.plugins.memory_store.store import MemoryStore
from portico.plugins.token_auth.authenticator import TokenAuthenticator
from portico.transports import streams
from tests.support.accesslog import access_lines
from tests.support.limits import HANG_SECONDS
from tests.support.serving import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer")],
        [("authorization", "Basic alice-secret")],
        [("authorization", "alice-secret")],
        [("authorization", b"Bearer \xff")],
        [("authorization", "Bearer alice-secret"), ("authorization", "Bearer bob-secret")],
    ],
    ids=str,
)
async def test_who_has_no_good_credentials_gets_nowhere(tmp_path: Path, headers: list[tuple[str, str | bytes]]) -> None:
    async with serving(tmp_path) as served:
        del served.client.headers["authorization"]
        for path in ("/claude/sessions", "/claude/stream/s?query=hi", "/nothing", "/healthz/", "/docs/"):
            answer = await served.client.get(path, headers=headers)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), path
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await served.client.get("/claude/sessions?ticket=x&token=alice-secret")).status_code == 401


async def test_health_needs_no_credentials(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        del served.client.headers["authorization"]
        assert (await served.client.get("/healthz")).status_code == 200
        assert (await served.client.get("/readyz")).status_code == 200
        served.engine.draining = True
        assert (await served.client.get("/healthz")).status_code == 200
        not_ready = await served.client.get("/readyz")
        assert not_ready.status_code == 503
        assert not_ready.json()["reasons"] == ["draining"]


async def test_while_draining_new_work_is_refused_and_reading_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hi")
        served.engine.draining = True
        for path, body in (("/claude/sessions", {}), ("/claude/sessions/s/turns", {"query": "x"})):
            refused = await served.client.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) > 0
        assert (await served.client.get("/claude/sessions/s/events?live=false")).status_code == 200


async def test_the_access_log_says_who_and_what_but_not_the_query(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(tmp_path) as served:
        await served.session()
        with access_lines() as lines:
            answer = await served.client.get("/claude/stream/s?query=a-secret-question&turn_id=t")
            record = await lines.wait("/claude/stream/s")
            fields = record.__dict__
            assert (fields["method"], fields["status"], fields["principal"]) == ("GET", 200, "alice")
            assert fields["bytes"] == len(answer.content)
            assert fields["duration_ms"] >= 0
            assert record.getMessage().startswith("GET /claude/stream/s 200 ")
            await served.client.get("/a%0ab/" + "x" * 1000)
            broken_up = await lines.wait("/a%0ab/" + "x" * (256 - 7))
            assert "\n" not in broken_up.getMessage()
    of_ours = [record for record in caplog.records if not record.name.startswith(("http", "hpack", "sse_starlette"))]
    assert "a-secret-question" not in "".join(record.getMessage() for record in of_ours)
    assert "alice-secret" not in "".join(record.getMessage() for record in of_ours)


async def test_a_fault_of_ours_is_logged_and_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object, **more: object) -> None:
        raise RuntimeError("the password is swordfish")

    async with serving(tmp_path) as served:
        await served.session()
        monkeypatch.setattr(Engine, "session", broken)
        answer = await served.client.get("/claude/sessions/s")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "swordfish" not in json.dumps([answer.text, dict(answer.headers)])
        assert (await served.client.get("/healthz")).status_code == 200
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert "swordfish" in caplog.text


@pytest.mark.parametrize(("part", "method"), [(TokenAuthenticator, "knows"), (MemoryStore, "get")])
async def test_a_plugin_that_fails_while_a_ticket_is_looked_at_again_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: type, method: str
) -> None:
    failed = anyio.Event()

    def broken(*args: object) -> SessionRecord:
        failed.set()
        raise RuntimeError("swordfish")

    monkeypatch.setattr(streams, "RECHECK_SECONDS", 0.01)
    async with serving(tmp_path, session_timeout=0.05) as served:
        await served.session()
        ticket = (await served.client.post("/claude/sessions/s/tickets", json={})).json()["ticket"]
        del served.client.headers["authorization"]
        async with served.client.stream("GET", f"/claude/sessions/s/events?ticket={ticket}") as answer:
            lines = answer.aiter_lines()
            with anyio.fail_after(HANG_SECONDS):
                while "dormant" not in await anext(lines):  # from now on the store is asked
                    pass
                with monkeypatch.context() as breaking:
                    breaking.setattr(part, method, broken)
                    await failed.wait()
                    await anyio.sleep(0.05)
                assert (await served.client.get("/healthz")).status_code == 200
                headers = {"authorization": "Bearer alice-secret"}
                await served.client.post("/claude/sessions/s/turns", json={"query": "hi"}, headers=headers)
                while "complete" not in await anext(lines):
                    pass
    assert "swordfish" in caplog.text


async def test_nobody_gets_in_by_a_ticket_while_an_authenticator_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> bool:
        raise RuntimeError("swordfish")

    async with serving(tmp_path) as served:
        await served.session()
        ticket = (await served.client.post("/claude/sessions/s/tickets", json={})).json()["ticket"]
        monkeypatch.setattr(TokenAuthenticator, "knows", broken)
        del served.client.headers["authorization"]
        answer = await served.client.get(f"/claude/sessions/s?ticket={ticket}")
        assert (answer.status_code, answer.json()["code"]) == (503, "authenticator_failed")

"""A caller's identity follows from the dialled service, and from nothing that the caller says of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.dark import dark_server, log_of
from tests.support.talk import Talk
from tests.support.ziti import network as standin

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

API = "http://localhost/claude"
SERVICES = "for-alice=alice,for-bob=bob,ops=ops:admin,tokens"


async def test_a_service_is_its_principal(tmp_path: Path) -> None:
    tokens = ("--auth-tokens", "bob:the-secret-of-bob,alice:the-secret-of-alice")
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net, *tokens, services=SERVICES) as server:
        assert server.url == "ziti:for-alice,for-bob,ops,tokens"
        async with (
            net.http("for-alice", base_url=API) as alice,
            net.http("for-bob", base_url=API) as bob,
            net.http("ops", base_url=API) as ops,
            net.http("tokens", base_url=API) as tokened,
        ):
            assert (await Talk(alice).open(session_id="a"))["owner"] == "alice"
            assert (await Talk(bob).open(session_id="b"))["owner"] == "bob"
            listed = {}
            for name, client in (("alice", alice), ("bob", bob), ("ops", ops)):
                listed[name] = {one["session_id"] for one in (await client.get("/sessions")).json()["sessions"]}
            assert listed == {"alice": {"a"}, "bob": {"b"}, "ops": {"a", "b"}}
            assert (await bob.get("/sessions/a")).status_code == 404
            assert (await bob.post("/stream/a", json={"query": "x"})).status_code == 404
            # Somebody else's token is of no use there: the service says who it is.
            assert (await bob.get("/sessions/a", headers=bearer("the-secret-of-alice"))).status_code == 404
            assert (await tokened.get("/sessions")).status_code == 401
            assert (await tokened.get("/sessions/b", headers=bearer("the-secret-of-bob"))).status_code == 200
            assert (await tokened.get("/sessions/a", headers=bearer("the-secret-of-bob"))).status_code == 404
        async with net.websocket("for-bob", "/claude/ws/a") as socket:
            assert (await socket.closed())[0] == 4404
        async with net.websocket("tokens", "/claude/ws/a") as socket:
            assert (await socket.closed())[0] == 4401


async def test_a_callers_name_is_a_label(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net, services="for-bob=bob,tokens") as server:
        net.allow("mallory", dial=["for-bob", "tokens"])
        for caller in ("bob", "bob\n2026 INFO forged"):
            with await net.dial("tokens", identity="mallory", caller=caller) as stream:
                stream.sendall(b"GET /claude/sessions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                assert stream.recv(12) == b"HTTP/1.1 401"
        async with net.http("for-bob", base_url=API) as bob:
            await Talk(bob).open(session_id="s")
        async with net.websocket("for-bob", caller="alice") as client:
            await client.send("x")
            assert (await client.until("query"))[-1]["principal"] == "bob"
        lines = log_of(server).splitlines()
        assert any(line.endswith(r"over tokens by 'bob\n2026 INFO forged'") for line in lines)
        assert not any(line.startswith("2026 INFO forged") for line in lines)


async def test_pages_of_other_names_get_nothing_where_no_token_is_asked_for(tmp_path: Path) -> None:
    async with standin(tmp_path, "0.6") as net, dark_server(tmp_path, net, services="for-bob=bob") as server:
        async with net.http("for-bob", base_url="http://evil.example/claude") as page:
            assert (await page.get("/sessions")).json()["code"] == "host_not_allowed"
        async with net.http("for-bob", base_url="http://for-bob/claude") as fine:
            assert (await fine.get("/sessions")).status_code == 200
        assert server.process.returncode is None


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}

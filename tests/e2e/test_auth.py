"""Wrong credentials, again and again, from several addresses; against a real server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from portico.transports.attempts import FREE_FAILURES
from tests.support.server import RunningServer, running_server
from tests.support.websocket import talking

pytestmark = pytest.mark.anyio

TOKENS = "alice:alice-secret,bob:bob-secret"


async def ask(server: RunningServer, secret: str, address: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as http:
        return await http.get(f"{server.api}/sessions", headers={"Authorization": f"Bearer {secret}"})


async def closed(server: RunningServer, secret: str) -> int:
    """The code that a WebSocket is closed with, whose auth frame has this secret."""
    async with talking(server.url, token=None, v1=True) as client:
        await client.send({"type": "auth", "token": secret})
        return (await client.closed())[0]


async def test_who_guesses_has_to_wait_and_nobody_else(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--driver", "echo", PORTICO_AUTH_TOKENS=TOKENS) as server:
        assert (await ask(server, "alice-secret", "127.0.0.1")).status_code == 200
        for number in range(FREE_FAILURES - 1):
            assert (await ask(server, f"wrong-{number}", "127.0.0.1")).status_code == 401
        assert await closed(server, "wrong-in-a-frame") == 4401
        refused = await ask(server, "wrong-again", "127.0.0.1")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_attempts")
        assert 0 < int(refused.headers["Retry-After"]) <= 5
        assert (await ask(server, "bob-secret", "127.0.0.1")).status_code == 429, "it may be a guess"
        assert await closed(server, "bob-secret") == 4429
        async with talking(server.url, token="wrong", v1=True) as client:
            assert (await client.closed())[0] == 4429
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{server.api}/sessions?ticket=a.b")).status_code == 429
            assert (await http.get(f"{server.api}/sessions")).status_code == 401, "nothing was tried"
            assert (await http.get(f"{server.url}/healthz")).status_code == 200
        # Who was let in before is let in, and who is elsewhere does not notice.
        assert (await ask(server, "alice-secret", "127.0.0.1")).status_code == 200
        assert (await ask(server, "bob-secret", "127.0.0.2")).status_code == 200
        assert (await ask(server, "wrong", "127.0.0.2")).status_code == 401
        log = (tmp_path / "server.log").read_text()
        assert log.count("wrong credentials from 127.0.0.1\n") == FREE_FAILURES
        assert log.count("wrong credentials from 127.0.0.2\n") == 1
        assert "wrong-" not in log and "-secret" not in log

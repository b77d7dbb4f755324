"""Wrong credentials, again and again, from several addresses; against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest

from portico.transports.attempts import FREE_FAILURES
from tests.support.issuer import AUDIENCE, NAME, Issuer, serving_keys
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, ROOT, RunningServer, environment, running_server
from tests.support.talk import talk
from tests.support.websocket import talking

pytestmark = pytest.mark.anyio

TOKENS = "alice:alice-secret,bob:bob-secret"


async def ask(server: RunningServer, secret: str, address: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=HANG_SECONDS) as http:
        return await http.get(f"{server.api}/sessions", headers={"Authorization": f"Bearer {secret}"})


async def closed(server: RunningServer, secret: str) -> int:
    """The code that a WebSocket is closed with, whose auth frame has this secret."""
    async with talking(server.url, token=None, v1=True) as client:
        await client.send({"type": "auth", "token": secret})
        return (await client.closed())[0]


async def test_who_guesses_has_to_wait_and_nobody_else(tmp_path: Path) -> None:
    issuer = Issuer()
    with serving_keys(issuer) as url:
        settings = {
            "PORTICO_AUTH": "token,jwt",
            "PORTICO_AUTH_TOKENS": TOKENS,
            "PORTICO_JWT_JWKS": url,
            "PORTICO_JWT_ISSUER": NAME,
            "PORTICO_JWT_AUDIENCE": AUDIENCE,
        }
        async with running_server(tmp_path, "--driver", "echo", **settings) as server:
            async with talk(server, "alice-secret") as alice:
                await alice.open(session_id="s")
                ticket = (await alice.http.post("/sessions/s/tickets", json={})).json()["ticket"]
            assert await closed(server, "wrong-in-a-frame") == 4401
            statuses = []

            async def guess(number: int) -> None:
                statuses.append(await ask(server, f"wrong-{number}", "127.0.0.1"))

            async with anyio.create_task_group() as tasks:
                for number in range(FREE_FAILURES * 2):
                    tasks.start_soon(guess, number)
            refused = [answer for answer in statuses if answer.status_code == 429]
            assert len(refused) >= FREE_FAILURES // 2 and {answer.status_code for answer in statuses} == {401, 429}
            assert {answer.json()["code"] for answer in refused} == {"too_many_attempts"}
            assert all(0 < int(answer.headers["Retry-After"]) <= 5 for answer in refused)

            async def slowed(ask_again: Callable[[], Awaitable[int]], status: int) -> None:
                """On a slow machine the address may have one more attempt by now."""
                with anyio.fail_after(HANG_SECONDS):
                    while await ask_again() != status:
                        pass

            async def wrong_ticket() -> int:
                async with httpx.AsyncClient(trust_env=False, timeout=HANG_SECONDS) as http:
                    return (await http.get(f"{server.api}/sessions?ticket=a.b")).status_code

            async def wrong_header() -> int:
                async with talking(server.url, token="wrong", v1=True) as client:
                    return (await client.closed())[0]

            await slowed(partial(closed, server, "wrong-in-a-frame"), 4429)
            await slowed(wrong_header, 4429)
            await slowed(wrong_ticket, 429)
            # Who is right gets in meanwhile, by every way, also for the first time.
            assert (await ask(server, "alice-secret", "127.0.0.1")).status_code == 200
            assert (await ask(server, "bob-secret", "127.0.0.1")).status_code == 200
            assert (await ask(server, issuer.token(), "127.0.0.1")).status_code == 200
            assert (await ask(server, issuer.token(aud="another"), "127.0.0.1")).status_code in (401, 429)
            for token in ("bob-secret", issuer.token()):
                async with talking(server.url, token=None, v1=True) as socket:
                    assert (await socket.ask({"type": "auth", "token": token}))["type"] == "ack"
            async with httpx.AsyncClient(trust_env=False, timeout=HANG_SECONDS) as http:
                assert (await http.get(f"{server.api}/sessions/s?ticket={ticket}")).status_code == 200
                assert (await http.get(f"{server.api}/sessions")).status_code == 401, "nothing was tried"
                assert (await http.get(f"{server.url}/healthz")).status_code == 200
                metrics = await http.get(f"{server.url}/metrics", headers={"Authorization": "Bearer alice-secret"})
            assert (await ask(server, "wrong", "127.0.0.2")).status_code == 401, "elsewhere nobody has tried"
            counted = [float(n) for n in re.findall(r"portico_wrong_credentials_total{.*} (\S+)", metrics.text)]
            assert sum(counted) >= FREE_FAILURES * 2 + 4
        log = (tmp_path / "server.log").read_text()
        assert log.count("wrong credentials from 127.0.0.1\n") == 1
        assert log.count("wrong credentials from 127.0.0.2\n") == 1
        assert "wrong-" not in log and "-secret" not in log


async def test_callers_come_with_tokens_of_an_issuer_or_with_their_own(tmp_path: Path) -> None:
    issuer = Issuer()
    with serving_keys(issuer) as url:
        jwt_settings = {
            "PORTICO_AUTH": "token,jwt",
            "PORTICO_AUTH_TOKENS": TOKENS,
            "PORTICO_JWT_JWKS": url,
            "PORTICO_JWT_ISSUER": NAME,
            "PORTICO_JWT_AUDIENCE": f"other,{AUDIENCE}",
            "PORTICO_JWT_ADMIN_CLAIM": "roles",
            "PORTICO_JWT_LEEWAY": "0",
        }
        async with running_server(tmp_path, "--driver", "echo", **jwt_settings) as server:
            async with (
                talk(server, issuer.token()) as carol,
                talk(server, issuer.token("ec", sub="ops", roles=["portico-admin"])) as ops,
                talk(server, "alice-secret") as alice,
            ):
                assert (await carol.open(session_id="s"))["owner"] == "carol"
                assert (await alice.http.get("/sessions/s")).status_code == 404
                assert (await ops.http.get("/sessions/s")).status_code == 200
                for wrong in (issuer.token(aud="another"), issuer.token(exp=1), "a.b.c"):
                    assert (await ask(server, wrong, "127.0.0.2")).status_code == 401
                soon = int(time.time()) + 5
                expiring = issuer.token(exp=soon)
                carol.http.headers["Authorization"] = f"Bearer {expiring}"
                made = (await carol.http.post("/sessions/s/tickets", json={"ttl": 3600})).json()
                assert datetime.fromisoformat(made["expires_at"]).timestamp() <= soon + 1, "no longer than she may"
                async with talking(server.url, token=expiring, v1=True) as socket:
                    with anyio.fail_after(HANG_SECONDS):
                        assert (await socket.closed())[0] == 4401, "her credentials have expired"
                assert (await carol.http.get("/sessions/s")).status_code == 401
        assert expiring not in (tmp_path / "server.log").read_text()


def refusal(folder: Path, **variables: str) -> str:
    """Return the output of a server that does not start."""
    env = environment(folder, PORTICO_DATA_DIR=str(folder / "data"), PORTICO_PORT="0", **variables)
    done = subprocess.run(
        [*PORTICO, "serve", "--driver", "echo"],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.long
def test_jwt_is_refused_where_it_could_not_work(tmp_path: Path) -> None:
    jwt_settings = {"PORTICO_AUTH": "jwt", "PORTICO_JWT_ISSUER": "i", "PORTICO_JWT_AUDIENCE": "a"}
    assert "needs jwt_jwks" in refusal(tmp_path, **jwt_settings)
    assert "No such file" in refusal(tmp_path, **jwt_settings, PORTICO_JWT_JWKS="nowhere.json")
    jwt_settings["PORTICO_JWT_JWKS"] = "https://127.0.0.1:1/"
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "jwt.py").write_text("raise ImportError('no jwt')")
    path = f"{tmp_path / 'lacking'}:{ROOT}"
    assert "pip install 'portico-server[jwt]'" in refusal(tmp_path, **jwt_settings, PYTHONPATH=path)
    for name, value in (("ALGORITHMS", "HS256"), ("ALGORITHMS", "none"), ("JWKS", "http://keys.example/")):
        assert f"PORTICO_JWT_{name}={value}: " in refusal(tmp_path, **{**jwt_settings, f"PORTICO_JWT_{name}": value})


@pytest.mark.long
def test_without_tokens_nobody_else_may_be_able_to_reach_it(tmp_path: Path) -> None:
    for name, value, why in (
        ("HOST", "0.0.0.0", "anybody who reaches host 0.0.0.0"),  # noqa: S104
        ("HOST", "::", "anybody who reaches host ::"),
        ("HOST", "0x7f000001", "anybody who reaches"),
        ("ALLOWED_HOSTS", "*", "any web page could use it"),
    ):
        assert why in refusal(tmp_path, PORTICO_AUTH="none", **{f"PORTICO_{name}": value})
    identity = tmp_path / "identity.json"
    identity.write_text("{}")
    identity.chmod(0o600)
    ziti = {"PORTICO_NETWORKING_MODE": "ziti", "PORTICO_ZITI_IDENTITY_FILE": str(identity)}
    for trust in ("true", "false"):
        said = refusal(
            tmp_path, PORTICO_AUTH="none", PORTICO_ZITI_TRUST_CALLER=trust, **ziti, PORTICO_ZITI_SERVICE_NAME="p,q=a"
        )
        assert "whoever may dial could do everything" in said


@pytest.mark.skipif(sys.platform != "linux", reason="gives the server a file of hosts of its own")
def test_a_localhost_that_is_elsewhere_is_noticed(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n0.0.0.0 localhost\n")
    env = environment(tmp_path, PORTICO_DATA_DIR=str(tmp_path / "data"), PORTICO_AUTH="none", PORTICO_PORT="0")
    script = 'mount --bind "$0" /etc/hosts || exit 77; exec "$@" --host localhost'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(hosts)]
    done = subprocess.run(
        [*command, *PORTICO, "serve", "--driver", "echo"],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SECONDS,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("there are no user namespaces")
    assert (done.returncode, "localhost is 0.0.0.0 here" in done.stderr) == (1, True), done.stderr

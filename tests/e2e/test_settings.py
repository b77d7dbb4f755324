"""Each setting, changed, changes what an outsider observes. The tests are named after the settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio
import httpx
import pytest

from portico.config.settings import Settings
from tests.e2e import test_gateway as gateway_tests
from tests.support.agents import real_cli
from tests.support.certificates import Certificates
from tests.support.limits import HANG_SECONDS
from tests.support.programs import needs
from tests.support.sdk import SDK_DRIVER
from tests.support.server import ROOT, RunningServer, running_server
from tests.support.sight import sees_servers
from tests.support.talk import Talk, only, script, talk, text
from tests.support.websocket import talking
from tests.ziti import test_settings as ziti_settings

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


def log(server: RunningServer) -> str:
    return (server.home.parent / "server.log").read_text()


def access_to(server: RunningServer, path: str) -> list[dict[str, Any]]:
    """The lines of the access log, which is JSON here, about one path."""
    lines = [json.loads(line) for line in log(server).splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line["name"] == "portico.access" and line["path"] == path]


async def environment_of_a_tool(client: Talk) -> dict[str, str]:
    """What a Bash tool of a new session has in its environment."""
    session = await client.open(permission_mode="acceptEdits", allowed_tools=["Bash"])
    command = {"command": "env -0 | tr '\\0' '\\n' > env.txt"}
    await client.turn(session["session_id"], script({"tool": {"name": "Bash", "input": command}}, {"say": "x"}))
    lines = (Path(session["cwd"]) / "env.txt").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_every_setting_has_its_test() -> None:
    tests = [name for name in [*globals(), *vars(ziti_settings), *vars(gateway_tests)] if name.startswith("test_")]
    tests += [f"test_{name}" for name in SHOWN_WITH_ANOTHER]
    missing = [name for name in Settings.model_fields if not any(test.startswith(f"test_{name}") for test in tests)]
    assert missing == []


async def test_anthropic_api_key_and_anthropic_base_url_reach_the_model(tmp_path: Path) -> None:
    async with running_server(tmp_path, ANTHROPIC_API_KEY="sk-of-the-test") as server, talk(server) as client:
        await client.open(session_id="s")
        await client.turn("s", "hello")  # that anything came is the base URL's doing
        assert server.model.requests[-1].headers["x-api-key"] == "sk-of-the-test"
        assert "sk-of-the-test" not in log(server) + json.dumps(await client.history("s"))


async def test_claude_code_oauth_token_reaches_the_model(tmp_path: Path) -> None:
    variables = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "oauth-of-the-test"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.turn("s", "hello")
        assert server.model.requests[-1].headers["authorization"] == "Bearer oauth-of-the-test"


async def test_key_gateway_off_hands_the_credential_to_the_agent(tmp_path: Path) -> None:
    variables = {"ANTHROPIC_API_KEY": "sk-of-the-test", "PORTICO_KEY_GATEWAY": "off"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        found = await environment_of_a_tool(client)
        assert found["ANTHROPIC_API_KEY"] == "sk-of-the-test" and "ANTHROPIC_UNIX_SOCKET" not in found
        assert server.model.requests[-1].headers["x-api-key"] == "sk-of-the-test"


async def test_agent_env_is_all_that_agents_get_of_the_environment(tmp_path: Path) -> None:
    variables = {"PORTICO_AGENT_ENV": "NAMED,GIVEN=value", "NAMED": "named", "SECRET": "server's own"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        found = await environment_of_a_tool(client)
        assert (found["NAMED"], found["GIVEN"]) == ("named", "value")
        assert "SECRET" not in found and not [name for name in found if name.startswith("PORTICO_DATA")]
        assert found["HOME"] != str(server.home) and found["HOME"].startswith(str(server.data_dir))


async def test_claude_model_and_max_tokens_reach_the_model(tmp_path: Path) -> None:
    options = ("--claude-model", "claude-opus-5-5", "--max-tokens", "1234")
    async with running_server(tmp_path, *options) as server, talk(server) as client:
        session = await client.open(session_id="s")
        assert session["model"] == "claude-opus-5-5"
        await client.turn("s", "hello")
        body = server.model.requests[-1].body
        assert body is not None and (body["model"], body["max_tokens"]) == ("claude-opus-5-5", 1234)
        await client.open(session_id="own", model="claude-haiku-4-5")
        await client.turn("own", "hello")
        body = server.model.requests[-1].body
        assert body is not None and body["model"] == "claude-haiku-4-5"


async def test_max_sessions(tmp_path: Path) -> None:
    async with running_server(tmp_path, MAX_SESSIONS="2") as server, talk(server) as client:
        for _ in range(2):
            await client.open()
        assert (await client.http.post("/sessions", json={})).status_code == 429


async def test_max_sessions_per_principal_and_max_turns_per_minute(tmp_path: Path) -> None:
    limits = ("--max-sessions-per-principal", "2", "--max-turns-per-minute", "3", "--max-queued-turns", "0")
    tokens = {"PORTICO_AUTH_TOKENS": "alice:alice-secret,root:root-secret:admin"}
    async with (
        running_server(tmp_path, "--driver", "echo", *limits, **tokens) as server,
        talk(server, "alice-secret") as alice,
        talk(server, "root-secret") as root,
    ):
        for session_id in ("a", "b"):
            await alice.open(session_id=session_id)
        refused = await alice.http.post("/sessions", json={})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_sessions")
        await root.open()
        await alice.http.delete("/sessions/b")
        await alice.open(session_id="c")
        for number in range(3):
            turn = {"query": '{"deltas": null, "gap": 0.05}' if number == 2 else "x", "turn_id": str(number)}
            for _ in range(3):  # the same once more is no other
                assert (await alice.http.post("/sessions/a/turns", json=turn)).status_code == 202
            await alice.until("a", "complete" if number < 2 else "delta", turn_id=str(number))
            assert (await alice.http.post("/sessions/c/turns", json={"query": "x", "turn_id": "x" * 300})).is_error
        for session_id, code in (("a", "queue_full"), ("c", "too_many_turns")):
            refused = await alice.http.post(f"/sessions/{session_id}/turns", json={"query": "x"})
            assert (refused.status_code, refused.json()["code"]) == (429, code)
            assert 0 < int(refused.headers["Retry-After"]) <= 60
        async with talking(server.url, "/claude/ws/c", v1=True, token="alice-secret") as socket:
            nack = await socket.ask({"type": "query", "content": "x"})
            assert (nack["type"], nack["code"], nack["status"]) == ("nack", "too_many_turns", 429)
        assert (await root.http.post("/sessions/c/turns", json={"query": "x"})).status_code == 202
        await alice.http.post("/sessions/a/interrupt")


test_max_turns_per_minute = test_max_sessions_per_principal_and_max_turns_per_minute


async def test_turn_timeout_ends_the_turn_and_not_the_session(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--turn-timeout", "2") as server, talk(server) as client:
        await client.open(session_id="s")
        turn = await client.turn("s", script({"words": 1000, "say": "w ", "gap_ms": 50}))
        assert only(turn, "error")["code"] == "turn_timeout"
        assert turn[-1]["stop_reason"] == "timeout"
        assert turn[-1]["duration_ms"] > 1900
        with anyio.fail_after(HANG_SECONDS):  # on a busy machine the agent may not answer within the limit
            while (turn := await client.turn("s", script({"say": "fine"})))[-1]["stop_reason"] == "timeout":
                pass
        assert text(turn) == "fine"


async def test_permission_timeout_denies(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--permission-timeout", "0.5") as server, talk(server) as client:
        session = await client.open(session_id="s")
        target = Path(session["cwd"]) / "file.txt"
        tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
        turn = await client.turn("s", script({"tool": tool}, {"say": "after"}))
        resolved = only(turn, "permission_resolved")
        assert (resolved["behavior"], resolved["reason"], resolved.get("principal")) == ("deny", "timeout", None)
        assert turn[-1]["stop_reason"] == "end_turn"
        assert not target.exists()


async def test_max_queued_turns(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--max-queued-turns", "0") as server, talk(server) as client:
        await client.open(session_id="s")
        await client.start("s", script({"words": 20, "say": "w ", "gap_ms": 50}))
        assert (await client.http.post("/sessions/s/turns", json={"query": "x"})).status_code == 429


async def test_write_timeout_cuts_a_client_that_reads_nothing(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--write-timeout", "1", "--max-tokens", "1000000") as server:
        async with talk(server) as client:
            await client.open(session_id="s")
            await client.turn("s", script({"size": 8_000_000}))
            port = httpx.URL(server.url).port
            assert port is not None
            head = f"Host: localhost\r\nAuthorization: Bearer {server.token}"
            request = f"GET /claude/sessions/s/events HTTP/1.1\r\n{head}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", port)) as idle:
                idle.sendall(request.encode())
                with anyio.fail_after(HANG_SECONDS):
                    while "events" not in log(server):
                        await anyio.sleep(0.05)
                idle.settimeout(HANG_SECONDS)
                with pytest.raises(ConnectionResetError):
                    while idle.recv(1 << 20):
                        pass


async def test_drain_timeout(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--drain-timeout", "0") as server, talk(server) as client:
        await client.open(session_id="s")
        await client.start("s", script({"words": 30_000, "say": "w ", "gap_ms": 50}))  # longer than `stop` waits
        await client.until("s", "delta")
        await server.stop()


async def test_max_body(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--max-body", "10KiB") as server, talk(server) as client:
        await client.open(session_id="s")
        large = await client.http.post("/sessions/s/turns", json={"query": "x" * 20_000})
        assert (large.status_code, large.json()["code"]) == (413, "too_large")
        assert (await client.turn("s", "x" * 9_000))[-1]["stop_reason"] == "end_turn"


async def test_max_frame(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--max-frame", "10KiB") as server, talk(server) as client:
        await client.open(session_id="s")
        async with talking(server.url, token=server.token) as socket:
            await socket.send("x" * 9_000)
            assert (await socket.until("complete"))[-1]["stop_reason"] == "end_turn"
            await socket.send("x" * 20_000)
            assert (await socket.closed())[0] == 1009


async def test_allowed_hosts(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--allowed-hosts", "portico.example") as server, talk(server) as client:
        statuses = [
            (await client.http.get("/sessions", headers={"Host": host})).status_code
            for host in ("portico.example", "portico.example:8787", "localhost", "evil.example")
        ]
        assert statuses == [200, 200, 200, 403]


async def test_allowed_origins(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--allowed-origins", "https://app.example") as server, talk(server) as client:
        allowed = await client.http.post("/sessions", json={}, headers={"Origin": "https://app.example"})
        assert allowed.status_code == 201
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example"
        refused = await client.http.post("/sessions", json={}, headers={"Origin": "https://evil.example"})
        assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize("setting", ["networking_mode", "store", "driver", "auth"])
async def test_networking_mode_store_driver_and_auth_list_what_there_is(tmp_path: Path, setting: str) -> None:
    known = {
        "networking_mode": "http, websocket",
        "store": "memory, sqlite",
        "driver": "claude-code, echo",
        "auth": "none, token",
    }[setting]
    done = await portico(tmp_path, "serve", f"--{setting.replace('_', '-')}", "nonsense")
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "nonsense" in line and known in line


async def test_driver_is_that_of_new_sessions_and_the_others_are_what_they_may_ask_for(tmp_path: Path) -> None:
    variables = SDK_DRIVER | {"PORTICO_DRIVER": "echo,claude-code"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        assert (await client.open(session_id="e"))["driver"] == "echo"
        assert text(await client.turn("e", "to and fro")) == "to and fro"
        assert (await client.open(session_id="c", driver="claude-code"))["driver"] == "claude-code"
        assert text(await client.turn("c", script({"say": "real"}))) == "real"
        refused = await client.http.post("/sessions", json={"driver": "claude-agent-sdk"})
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_driver")
        assert "echo, claude-code" in refused.json()["detail"]


PLUGIN = """
from portico import hookimpl
from pydantic import BaseModel
from starlette.responses import PlainTextResponse
from starlette.routing import Route

class Settings(BaseModel):
    text: str = "hello"

class Greeting:
    def __init__(self, text):
        self.text = text

    def routes(self, engine):
        async def greet(request):
            return PlainTextResponse(self.text)
        return [Route("/greeting", greet)]

@hookimpl
def portico_settings():
    return {"greeting": Settings}

@hookimpl
def portico_routes():
    return {"greeting": lambda context: Greeting(context.plugin_settings["greeting"].text)}
"""


async def test_plugins_are_loaded_with_settings_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "greeting.py").write_text(PLUGIN)
    (tmp_path / "broken.py").write_text("import there_is_no_such_module")
    variables = {
        "PORTICO_PLUGINS": "greeting,broken",
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "PORTICO_GREETING_TEXT": "ahoy",
    }
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        assert (await client.http.get(f"{server.url}/greeting")).text == "ahoy"
        async with httpx.AsyncClient(trust_env=False, timeout=HANG_SECONDS) as stranger:
            assert (await stranger.get(f"{server.url}/greeting")).status_code == 401
        await client.open(session_id="s")
        assert text(await client.turn("s", script({"say": "fine"}))) == "fine"
        assert "the plugin broken is left out: ModuleNotFoundError: No module named" in log(server)


DRIVER = """
from portico import hookimpl
from portico.plugins.echo.driver import EchoDriver

class Driver(EchoDriver):
    async def check(self):
        raise ZeroDivisionError("no")

@hookimpl
def portico_drivers():
    return {"failing": lambda context: Driver()}
"""


async def test_a_driver_that_fails_at_the_start_does_not_take_the_server_with_it(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(DRIVER)
    variables = {"PORTICO_PLUGINS": "failing", "PYTHONPATH": f"{ROOT}:{tmp_path}", "PORTICO_DRIVER": "failing,echo"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s", driver="echo")
        assert text(await client.turn("s", "to and fro")) == "to and fro"
        assert "sessions cannot be opened: the driver failing failed" in log(server)


async def test_disabled_plugins_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "greeting.py").write_text(PLUGIN)
    variables = {
        "PORTICO_PLUGINS": "greeting",
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "PORTICO_DISABLED_PLUGINS": "greeting",
    }
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        assert (await client.http.get(f"{server.url}/greeting")).status_code == 404
    done = await portico(tmp_path, "serve", "--disabled-plugins", "greetings")
    assert done.returncode == 2
    assert "there is no plugin 'greetings'; there are: claude-code, echo, " in done.stderr.decode()


@pytest.mark.parametrize(("store", "kept"), [("memory", 404), ("sqlite", 200)])
async def test_store_and_what_a_restart_leaves_of_it(tmp_path: Path, store: str, kept: int) -> None:
    async with running_server(tmp_path, PORTICO_STORE=store) as server, talk(server) as client:
        await client.open(session_id="s")
    (tmp_path / "again").mkdir()
    variables = {"PORTICO_STORE": store, "PORTICO_DATA_DIR": str(server.data_dir)}
    async with running_server(tmp_path / "again", **variables) as server, talk(server) as client:
        assert (await client.http.get("/sessions/s")).status_code == kept


@needs("strace")  # nothing else shows a sync from outside
@sees_servers
async def test_store_sync_full_syncs_the_file_at_every_commit(tmp_path: Path) -> None:
    calls = {}
    for sync in ("normal", "full"):
        folder = tmp_path / sync
        folder.mkdir()
        trace = folder / "trace"
        command = ["strace", "-f", "-q", "-e", "trace=fsync,fdatasync", "-o", str(trace), "-p"]
        async with running_server(folder, PORTICO_STORE_SYNC=sync) as server:
            async with await anyio.open_process([*command, str(server.process.pid)], stderr=None) as tracer:
                await traced(server.process.pid)
                async with talk(server) as client:
                    for _ in range(5):
                        await client.open()
                tracer.terminate()
        calls[sync] = trace.read_text().count("sync(")
    assert calls["normal"] < 5 <= calls["full"]


async def traced(pid: int) -> None:
    """Wait until another process traces all threads of this one."""
    with anyio.fail_after(HANG_SECONDS):
        while True:
            with suppress(OSError):  # a thread may end meanwhile
                threads = Path(f"/proc/{pid}/task").glob("*/status")
                if all("TracerPid:\t0\n" not in status.read_text() for status in threads):
                    return
            await anyio.sleep(0.05)


@pytest.mark.long
async def test_retention_mb_and_retention_days_delete_what_is_too_much_or_too_old(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--max-tokens", "1000000") as server, talk(server) as client:
        await client.open(session_id="s")
        for _ in range(3):
            await client.turn("s", script({"size": 2_000_000, "say": os.urandom(500_000).hex()}))
        whole = (await client.session("s"))["last_seq"]
    for n, limit in enumerate(({"PORTICO_RETENTION_MB": "1"}, {"PORTICO_RETENTION_DAYS": "0.000001"})):
        folder = tmp_path / str(n)
        shutil.copytree(server.data_dir, folder / "data", ignore=shutil.ignore_patterns("devices"))
        async with running_server(folder, **limit) as again, talk(again) as client:
            with anyio.fail_after(HANG_SECONDS):
                while (first := (await client.history("s"))[0])["type"] != "gap":
                    await anyio.sleep(0.1)
            assert first["after"] == 0 and 1 < first["min_seq"] <= whole + 2
            assert "seq" not in first
            async with client.http.stream("GET", "/sessions/s/events") as answer:
                async for line in answer.aiter_lines():
                    assert not line.startswith("id: ")  # the gap comes first, and has none
                    if line.startswith("data: "):
                        assert json.loads(line[6:])["type"] == "gap"
                        break


async def test_session_timeout(tmp_path: Path) -> None:
    async with running_server(tmp_path, SESSION_TIMEOUT="0.3") as server, talk(server) as client:
        await client.open(session_id="s")
        await client.until("s", "session", state="dormant")


async def test_max_processes_and_process_wait(tmp_path: Path) -> None:
    limits = {"PORTICO_MAX_PROCESSES": "1", "PORTICO_PROCESS_WAIT": "0.3", "PORTICO_POOL_SIZE": "0"}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        await client.open(session_id="a")
        await client.open(session_id="b")
        await client.start("a", script({"words": 100, "say": "w ", "gap_ms": 50}))
        await client.until("a", "delta")
        assert only(await client.turn("b", "hello"), "error")["code"] == "no_capacity"


async def test_pool_size(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_POOL_SIZE="1") as server:
        with anyio.fail_after(HANG_SECONDS):
            while server.count_agents() != 1:
                await anyio.sleep(0.05)


async def portico(tmp_path: Path, *arguments: str) -> CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], "PORTICO_DATA_DIR": str(tmp_path / "data"), "HOME": str(tmp_path)}
    return await anyio.run_process(
        [sys.executable, "-m", "portico", *arguments],
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=False,
        cwd=tmp_path,
    )


async def test_claude_cli_path(tmp_path: Path) -> None:
    path = tmp_path / "later"
    async with running_server(tmp_path, PORTICO_CLAUDE_CLI_PATH=str(path)) as server, talk(server) as client:
        assert (await client.http.post("/sessions", json={})).json()["code"] == "cli_not_found"
        ready = httpx.get(f"{server.url}/readyz", timeout=HANG_SECONDS)
        assert ready.status_code == 200 and str(path) in ready.json()["failed"]["driver claude-code"]
        path.symlink_to(real_cli())
        await client.open()
        assert httpx.get(f"{server.url}/readyz", timeout=HANG_SECONDS).json() == {"status": "ok"}


async def test_host_and_port(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    async with running_server(tmp_path, "--host", "127.0.0.2", PORTICO_PORT=str(port)) as server:
        assert server.url == f"http://127.0.0.2:{port}"
        assert httpx.get(f"{server.url}/healthz", timeout=HANG_SECONDS).status_code == 200


async def test_uds_is_the_only_way_in(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with running_server(tmp_path, "--uds", str(path)) as server:
        assert server.url == f"unix:{path}"
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://portico", timeout=HANG_SECONDS) as client:
            assert (await client.get("/healthz")).status_code == 200
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


async def test_data_dir_is_private_and_holds_everything(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    async with running_server(tmp_path, PORTICO_DATA_DIR=str(elsewhere)) as server, talk(server) as client:
        session = await client.open()
        assert session["cwd"].startswith(str(elsewhere / "workspaces"))
        assert elsewhere.stat().st_mode & 0o777 == 0o700
        assert os.listdir(server.home) == []


async def test_workspace_roots(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "project", outside):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(outside)
    async with running_server(tmp_path, PORTICO_WORKSPACE_ROOTS=str(root)) as server, talk(server) as client:
        session = await client.open(cwd=str(root / "project"))
        assert session["cwd"] == str(root / "project")
        for cwd in (outside, root / ".." / "outside", root / "link"):
            answer = await client.http.post("/sessions", json={"cwd": str(cwd)})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), cwd
        for wrong in ("relative", str(root / "missing")):
            answer = await client.http.post("/sessions", json={"cwd": wrong})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cwd"), wrong
        assert (await client.open())["cwd"].startswith(str(root))


async def test_workspace_roots_do_not_open_what_others_keep_there(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        others = Path((await client.open())["cwd"])
        (others / "nested").mkdir()
        (server.data_dir / "workspaces" / "link").symlink_to(others)
        beside = (others, others / "nested", others.parent, others.parent / "link", server.data_dir / "agents")
        for cwd in (*beside, server.data_dir, others / ".." / others.name):
            answer = await client.http.post("/sessions", json={"cwd": str(cwd)})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), cwd
        assert others.stat().st_mode & 0o777 == others.parent.stat().st_mode & 0o777 == 0o700
    root, folder = tmp_path / "root", tmp_path / "again"
    (root / "project").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    folder.mkdir()
    roots = {"PORTICO_WORKSPACE_ROOTS": f"{tmp_path / 'link'},{folder}"}  # the second holds the data folder
    async with running_server(folder, **roots, PORTICO_POOL_SIZE="0") as server, talk(server) as client:
        assert (await client.open(cwd=str(tmp_path / "link" / "project")))["cwd"] == str(root / "project")
        assert (await client.open(cwd=str(root)))["cwd"] == str(root)
        others = Path((await client.open(session_id="s"))["cwd"])
        # An agent could write the .env of the next start where the server was started.
        for cwd in (others, others.parent, folder, server.data_dir, server.data_dir / "agents", server.home):
            answer = await client.http.post("/sessions", json={"cwd": str(cwd)})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), cwd
        others.rename(tmp_path / "was")  # as an agent without a sandbox could, between two turns
        others.symlink_to(server.data_dir)
        assert only(await client.turn("s", "hello"), "error")["code"] == "workspace_moved"


async def test_permission_modes(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_PERMISSION_MODES="default,acceptEdits") as server:
        async with talk(server) as client:
            refused = await client.http.post("/sessions", json={"permission_mode": "plan"})
            assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
            unknown = await client.http.post("/sessions", json={"permission_mode": "Plan"})
            assert unknown.status_code == 422 and "acceptEdits" in unknown.json()["detail"]
            session = await client.open(permission_mode="acceptEdits")
            target = Path(session["cwd"]) / "file.txt"
            tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
            await client.turn(session["session_id"], script({"tool": tool}, {"say": "x"}))
            assert target.read_text() == "x"  # nobody was asked


async def test_auth_none_lets_everybody_in(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_AUTH="none") as server:
        answer = httpx.get(f"{server.api}/sessions", timeout=HANG_SECONDS)
        assert answer.status_code == 200
        assert not (server.data_dir / "token").exists()
        assert "auth=none: who reaches this server may do everything" in (tmp_path / "server.log").read_text()


async def test_auth_tokens(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_AUTH_TOKENS="me:my-own-secret") as server:
        async with talk(server, "my-own-secret") as client:
            assert (await client.open())["owner"] == "me"


async def test_api_prefix(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_API_PREFIX="/api/v1") as server:
        headers = {"Authorization": f"Bearer {server.token}"}
        assert httpx.get(f"{server.url}/api/v1/sessions", headers=headers, timeout=HANG_SECONDS).status_code == 200
        created = httpx.post(
            f"{server.url}/api/v1/sessions", headers=headers, json={"session_id": "s"}, timeout=HANG_SECONDS
        )
        assert created.headers["Location"] == "/api/v1/sessions/s"
        assert httpx.get(f"{server.url}/claude/sessions", headers=headers, timeout=HANG_SECONDS).status_code == 404


async def test_log_level(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_LOG_LEVEL="error") as server, talk(server) as client:
        await client.open()
        assert "POST" not in log(server)


async def test_log_format_and_that_no_query_is_logged(tmp_path: Path) -> None:
    loud = {"PORTICO_LOG_FORMAT": "json", "PORTICO_LOG_LEVEL": "debug"}
    async with running_server(tmp_path, **loud) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.http.get("/stream/s?query=very+private&turn_id=t")
        with anyio.fail_after(HANG_SECONDS):
            while not (access := access_to(server, "/claude/stream/s")):  # written when the answer has been sent
                await anyio.sleep(0.02)
        assert [(line["level"], line["status"]) for line in access] == [("INFO", 200)]
        assert "private" not in log(server)


async def test_sandbox_required_does_not_start_without(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "PORTICO_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)}
    for value in ("required", "bubblewrap"):
        argv = [sys.executable, "-m", "portico", "serve", "--sandbox", value, "--port", "0"]
        with anyio.fail_after(HANG_SECONDS):
            done = await anyio.run_process(argv, env=environment, check=False, cwd=tmp_path)
        assert done.returncode == 1
        said = f"portico: sandbox={value}: there is no program bwrap (on Debian and Ubuntu, `apt install bubblewrap`)"
        assert said in done.stderr.decode()
    (tmp_path / "auto").mkdir()
    async with running_server(tmp_path / "auto", PATH=str(tmp_path)) as server:
        assert "agents are not in a sandbox (there is no program bwrap" in log(server)


HELLO = {"command": sys.executable, "args": [str(ROOT / "tests" / "support" / "mcp_server.py")]}


async def test_mcp_servers_are_the_operators(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"offered": HELLO}}))
    async with running_server(tmp_path, PORTICO_MCP_SERVERS=f"@{tmp_path}/mcp.json") as server, talk(server) as client:
        for asked in (["other"], ["offered", "other"], {"offered": {"command": "sh"}}):
            refused = await client.http.post("/sessions", json={"mcp_servers": asked})
            assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        await client.open(session_id="s", mcp_servers=["offered"], allowed_tools=["mcp__offered__hello"])
        turn = await client.turn("s", script({"tool": {"name": "mcp__offered__hello", "input": {}}}, {"say": "x"}))
        assert "hello from the operator's server" in json.dumps(only(turn, "tool_result")["content"])


async def test_allow_client_mcp(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_ALLOW_CLIENT_MCP="true", PORTICO_SANDBOX="none") as server:
        async with talk(server) as client:
            await client.open(session_id="s", mcp_servers={"own": HELLO}, allowed_tools=["mcp__own__hello"])
            turn = await client.turn("s", script({"tool": {"name": "mcp__own__hello", "input": {}}}, {"say": "x"}))
            assert "hello from" in json.dumps(only(turn, "tool_result")["content"])


async def test_setting_sources_allowed_tools_and_disallowed_tools(tmp_path: Path) -> None:
    """Only that they are refused where nothing is allowed; test_busy.py shows the rest."""
    async with running_server(tmp_path, PORTICO_DISALLOWED_TOOLS="Bash") as server, talk(server) as client:
        refused = await client.http.post("/sessions", json={"setting_sources": ["project"]})
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        await client.open(session_id="s", allowed_tools=["Bash"])
        await client.turn("s", "hello")
        body = server.model.requests[-1].body
        assert body is not None and "Bash" not in [tool["name"] for tool in body["tools"]]


async def test_max_streams_per_principal(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_MAX_STREAMS_PER_PRINCIPAL="1") as server, talk(server) as client:
        await client.open(session_id="s")
        async with client.http.stream("GET", "/sessions/s/events"):
            refused = await client.http.get("/sessions/s/events")
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
            async with talking(server.url, token=server.token) as third:
                assert (await third.closed())[0] == 4429


async def test_max_connections(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_MAX_CONNECTIONS="1") as server, talk(server) as client:
        await client.open(session_id="s")
        async with client.http.stream("GET", "/sessions/s/events"):
            refused = await client.http.get("/sessions")
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")


def with_tls(folder: Path) -> tuple[Certificates, dict[str, str]]:
    certificates = Certificates(folder)
    cert, key = certificates.issue()
    return certificates, {"PORTICO_TLS_CERT": str(cert), "PORTICO_TLS_KEY": str(key), "PORTICO_DRIVER": "echo"}


async def test_tls_cert_is_what_clients_see(tmp_path: Path) -> None:
    certificates, variables = with_tls(tmp_path)
    async with running_server(tmp_path, **variables) as server:
        assert server.url.startswith("https://127.0.0.1:")
        asks = ("ask", "--session", "s", "hello", "--token", server.token)
        by_name = ("--server", server.url, "--cafile", str(certificates.cafile))
        for trust in (("--data-dir", str(server.data_dir)), by_name):
            done = await portico(tmp_path, *asks, *trust)
            assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
        stranger = await portico(tmp_path, *asks, "--server", server.url)
        assert stranger.returncode == 1 and b"can't prove who it is" in stranger.stderr


async def test_tls_key_and_its_certificate_are_read_again_at_sighup(tmp_path: Path) -> None:
    certificates, variables = with_tls(tmp_path)
    cert, key = Path(variables["PORTICO_TLS_CERT"]), Path(variables["PORTICO_TLS_KEY"])
    async with running_server(tmp_path, **variables) as server:

        def shown() -> str:
            return ssl.get_server_certificate(("127.0.0.1", httpx.URL(server.url).port or 0)).strip()

        async with httpx.AsyncClient(verify=certificates.client(), trust_env=False, timeout=HANG_SECONDS) as client:
            assert (await client.get(f"{server.url}/healthz")).status_code == 200
            old = await anyio.to_thread.run_sync(shown)
            certificates.issue()  # into the same files
            server.process.send_signal(signal.SIGHUP)
            with anyio.fail_after(HANG_SECONDS):
                while (new := await anyio.to_thread.run_sync(shown)) == old:
                    await anyio.sleep(0.1)
            assert new in cert.read_text()
            key.write_text("no key")
            server.process.send_signal(signal.SIGHUP)
            with anyio.fail_after(HANG_SECONDS):
                while "tls_cert stays as it was" not in log(server):
                    await anyio.sleep(0.05)
            assert await anyio.to_thread.run_sync(shown) == new
            assert (await client.get(f"{server.url}/healthz")).status_code == 200  # the old connection lives on
        assert "holds no private key" in log(server) and "Traceback" not in log(server)
    refused = await portico(tmp_path, "serve", "--tls-cert", str(cert), "--tls-key", str(key))
    assert refused.returncode == 1 and b"holds no private key" in refused.stderr


async def seen_behind(folder: Path, trusted: str) -> str:
    """The address that is logged of a client that comes from 127.0.0.1, and says more."""
    variables = {"PORTICO_PROXY_HEADERS": "true", "PORTICO_TRUSTED_PROXIES": trusted, "PORTICO_LOG_FORMAT": "json"}
    async with running_server(folder, **variables) as server, talk(server) as client:
        await client.http.get("/sessions", headers={"X-Forwarded-For": "203.0.113.9, 192.0.2.1"})
        with anyio.fail_after(HANG_SECONDS):
            while not (access := access_to(server, "/claude/sessions")):
                await anyio.sleep(0.02)
        return str(access[0]["client"])


async def test_proxy_headers_say_who_is_calling(tmp_path: Path) -> None:
    assert await seen_behind(tmp_path, "127.0.0.1") == "192.0.2.1"


async def test_trusted_proxies_are_those_that_are_believed(tmp_path: Path) -> None:
    assert await seen_behind(tmp_path, "10.0.0.0/8") == "127.0.0.1"


async def test_audit_log_says_where_it_is_kept_and_whether(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    for value, name in ((str(elsewhere), "one"), ("off", "two")):
        folder = tmp_path / name
        folder.mkdir()
        async with running_server(folder, "--audit-log", value) as server, talk(server) as client:
            await client.open(session_id="s")
        assert not (server.data_dir / "audit.jsonl").exists()
    assert elsewhere.read_text().count('"session.create"') == 1


SHOWN_WITH_ANOTHER = {
    "anthropic_base_url": test_anthropic_api_key_and_anthropic_base_url_reach_the_model,
    "max_tokens": test_claude_model_and_max_tokens_reach_the_model,
    "retention_days": test_retention_mb_and_retention_days_delete_what_is_too_much_or_too_old,
    "process_wait": test_max_processes_and_process_wait,
    "port": test_host_and_port,
    "allowed_tools": test_setting_sources_allowed_tools_and_disallowed_tools,
    "disallowed_tools": test_setting_sources_allowed_tools_and_disallowed_tools,
}
"""Settings that the test of another one shows too."""

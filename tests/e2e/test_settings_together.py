"""Settings that disturb each other's tests so little that two servers have all of them changed.

`test_settings.py` has the others, and the list of all.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from portico.cli.client.api import Client
from portico.cli.client.connection import find_endpoint
from portico.cli.client.errors import ProblemError
from tests.support.limits import HANG_SECONDS
from tests.support.server import ROOT, RunningServer, running_server
from tests.support.talk import Talk, only, script, talk, text
from tests.support.websocket import talking

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

HELLO = {"command": sys.executable, "args": [str(ROOT / "tests" / "support" / "mcp_server.py")]}

PLUGIN = """
from portico import hookimpl
from portico.plugins.echo.driver import EchoDriver
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
        return [Route("/NAME", greet)]

class Failing(EchoDriver):
    async def check(self):
        raise ZeroDivisionError("no")

@hookimpl
def portico_settings():
    return {"NAME": Settings}

@hookimpl
def portico_routes():
    return {"NAME": lambda context: Greeting(context.plugin_settings["NAME"].text)}

@hookimpl
def portico_drivers():
    return {"failing": lambda context: Failing()} if "NAME" == "greeting" else {}
"""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    """The first server, to which `client` speaks."""
    folder = tmp_path_factory.mktemp("changed")
    (folder / "root").mkdir()
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"offered": HELLO}}))
    for name in ("greeting", "disabled"):
        (folder / f"{name}.py").write_text(PLUGIN.replace("NAME", name))
    (folder / "broken.py").write_text("import there_is_no_such_module")
    variables = {
        "ANTHROPIC_API_KEY": "sk-of-the-test",
        "GREETING_TEXT": "ahoy",
        "PORTICO_AGENT_ENV": "NAMED,GIVEN=value",
        "NAMED": "named",
        "SECRET": "server's own",
        "PORTICO_AUDIT_LOG": str(folder / "elsewhere.jsonl"),
        "PORTICO_DISABLED_PLUGINS": "disabled",
        "PORTICO_DISALLOWED_TOOLS": "WebFetch",
        "PORTICO_DRIVER": "claude-code,echo",
        "PORTICO_GREETING_TEXT": "ahoy",
        "PORTICO_LOG_FORMAT": "json",
        "PORTICO_LOG_LEVEL": "debug",
        "PORTICO_MCP_SERVERS": f"@{folder}/mcp.json",
        "PORTICO_PERMISSION_MODES": "default,acceptEdits",
        "PORTICO_PLUGINS": "greeting,broken,disabled",
        "PORTICO_PROXY_HEADERS": "true",
        "PORTICO_TRUSTED_PROXIES": "127.0.0.1",
        "PORTICO_WORKSPACE_ROOTS": str(folder / "root"),
        "PYTHONPATH": f"{ROOT}:{folder}",
    }
    options = {
        "claude-model": "claude-opus-5-5",
        "max-tokens": "1234",
        "permission-timeout": "0.5",
        "question-timeout": "0.75",
        "max-body": "10KiB",
        "max-frame": "10KiB",
        "allowed-hosts": "portico.example",
        "allowed-origins": "https://app.example",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    async with running_server(folder, *arguments, **variables) as server:
        yield server


@pytest.fixture(scope="module")
async def other(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    """The second one, with other values of some, and its only token in its settings."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "failing.py").write_text(PLUGIN.replace("NAME", "greeting"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    variables = {
        "ANTHROPIC_API_KEY": "",
        "CLAUDE_CODE_OAUTH_TOKEN": "oauth-of-the-test",
        "PORTICO_ALLOW_CLIENT_MCP": "true",
        "PORTICO_AUDIT_LOG": "off",
        "PORTICO_AUTH_TOKENS": "me:my-own-secret",
        "PORTICO_DATA_DIR": str(folder / "elsewhere"),
        "PORTICO_DRIVER": "failing,claude-code",
        "PORTICO_LOG_FORMAT": "json",
        "PORTICO_PLUGINS": "failing",
        "PORTICO_PORT": str(port),
        "PORTICO_PROXY_HEADERS": "true",
        "PORTICO_ROOT_PATH": "/agents",
        "PORTICO_SANDBOX": "none",
        "PORTICO_SUBAGENTS": "off",
        "PORTICO_TRUSTED_PROXIES": "10.0.0.0/8",
        "PYTHONPATH": f"{ROOT}:{folder}",
    }
    async with running_server(folder, "--host", "127.0.0.2", **variables) as server:
        assert server.url == f"http://127.0.0.2:{port}"
        yield server


@pytest.fixture
async def me(other: RunningServer) -> AsyncIterator[Talk]:
    async with talk(other, "my-own-secret") as client:
        yield client


def log(server: RunningServer) -> str:
    return (server.home.parent / "server.log").read_text()


async def access_to(server: RunningServer, path: str) -> list[dict[str, Any]]:
    """The lines of the access log about one path, once there is one: it is written when the answer has been sent."""
    with anyio.fail_after(HANG_SECONDS):
        while True:
            lines = [json.loads(line) for line in log(server).splitlines() if line.startswith("{") and line[-1] == "}"]
            if found := [line for line in lines if line["name"] == "portico.access" and line["path"] == path]:
                return found
            await anyio.sleep(0.02)


async def test_anthropic_api_key_claude_model_max_tokens_and_disallowed_tools_reach_the_model(
    server: RunningServer, client: Talk
) -> None:
    session = await client.open(session_id="s", allowed_tools=["WebFetch"])
    assert session["model"] == "claude-opus-5-5"
    await client.turn("s", "hello")  # that anything came is the base URL's doing
    asked = server.model.requests[-1]
    assert asked.headers["x-api-key"] == "sk-of-the-test"
    assert asked.body is not None
    assert (asked.body["model"], asked.body["max_tokens"]) == ("claude-opus-5-5", 1234)
    tools = [tool["name"] for tool in asked.body["tools"]]
    assert "Bash" in tools and "WebFetch" not in tools
    assert "sk-of-the-test" not in log(server) + json.dumps(await client.history("s"))
    await client.open(session_id="own", model="claude-haiku-4-5")
    await client.turn("own", "hello")
    body = server.model.requests[-1].body
    assert body is not None and body["model"] == "claude-haiku-4-5"


async def test_claude_code_oauth_token_reaches_the_model(other: RunningServer, me: Talk) -> None:
    await me.open(session_id="s", driver="claude-code")
    await me.turn("s", "hello")
    assert other.model.requests[-1].headers["authorization"] == "Bearer oauth-of-the-test"


async def test_subagents_off_keeps_their_words_out_of_the_history(me: Talk) -> None:
    task = script({"say": "I look", "tool": {"name": "Glob", "input": {"pattern": "*"}}}, {"say": "nothing there"})
    use = {"description": "x", "subagent_type": "general-purpose", "run_in_background": False, "prompt": task}
    await me.open(session_id="delegates", driver="claude-code", allowed_tools=["Agent", "Task"])
    events = await me.turn("delegates", script({"tool": {"name": "Agent", "input": use}}, {"say": "done"}))
    assert [e for e in events if "parent_tool_use_id" in e] == []
    (result,) = [e for e in events if e["type"] == "tool_result"]
    assert "nothing there" in json.dumps(result)


async def environment_of_a_tool(client: Talk) -> dict[str, str]:
    """Return the environment of a Bash tool of a new session."""
    session = await client.open(permission_mode="acceptEdits", allowed_tools=["Bash"])
    command = {"command": "env -0 | tr '\\0' '\\n' > env.txt"}
    await client.turn(session["session_id"], script({"tool": {"name": "Bash", "input": command}}, {"say": "x"}))
    lines = (Path(session["cwd"]) / "env.txt").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


async def test_agent_env_is_all_that_agents_get_of_the_environment(server: RunningServer, client: Talk) -> None:
    found = await environment_of_a_tool(client)
    assert (found["NAMED"], found["GIVEN"]) == ("named", "value")
    assert "SECRET" not in found and not [name for name in found if name.startswith("PORTICO_DATA")]
    assert found["HOME"] != str(server.home) and found["HOME"].startswith(str(server.data_dir))


async def test_permission_timeout_denies(client: Talk) -> None:
    session = await client.open(session_id="s")
    target = Path(session["cwd"]) / "file.txt"
    tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
    turn = await client.turn("s", script({"tool": tool}, {"say": "after"}))
    resolved = only(turn, "permission_resolved")
    assert (resolved["behavior"], resolved["reason"], resolved.get("principal")) == ("deny", "timeout", None)
    assert turn[-1]["stop_reason"] == "end_turn"
    assert not target.exists()


async def test_question_timeout_denies(client: Talk) -> None:
    await client.open(session_id="s")
    turn = await client.turn("s", "Ask me a question")
    assert "expires_at" in only(turn, "permission_request")
    resolved = only(turn, "permission_resolved")
    assert (resolved["behavior"], resolved["reason"]) == ("deny", "timeout")
    assert turn[-1]["stop_reason"] == "end_turn"


async def test_permission_modes(client: Talk) -> None:
    refused = await client.http.post("/sessions", json={"permission_mode": "plan"})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    unknown = await client.http.post("/sessions", json={"permission_mode": "Plan"})
    assert unknown.status_code == 422 and "acceptEdits" in unknown.json()["detail"]
    session = await client.open(permission_mode="acceptEdits")
    target = Path(session["cwd"]) / "file.txt"
    tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
    await client.turn(session["session_id"], script({"tool": tool}, {"say": "x"}))
    assert target.read_text() == "x"  # nobody was asked


async def test_max_body(client: Talk) -> None:
    await client.open(session_id="s", driver="echo")
    large = await client.http.post("/sessions/s/turns", json={"query": "x" * 20_000})
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    assert (await client.turn("s", "x" * 9_000))[-1]["stop_reason"] == "end_turn"


async def test_max_frame(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s", driver="echo")
    async with talking(server.url, token=server.token) as socket:
        await socket.send("x" * 9_000)
        assert (await socket.until("complete"))[-1]["stop_reason"] == "end_turn"
        await socket.send("x" * 20_000)
        assert (await socket.closed())[0] == 1009


async def test_allowed_hosts(client: Talk) -> None:
    statuses = [
        (await client.http.get("/sessions", headers={"Host": host})).status_code
        for host in ("portico.example", "portico.example:8787", "localhost", "evil.example")
    ]
    assert statuses == [200, 200, 200, 403]


async def test_allowed_origins(client: Talk) -> None:
    allowed = await client.http.post("/sessions", json={}, headers={"Origin": "https://app.example"})
    assert allowed.status_code == 201
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example"
    refused = await client.http.post("/sessions", json={}, headers={"Origin": "https://evil.example"})
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")


async def test_driver_is_that_of_new_sessions_and_the_others_are_what_they_may_ask_for(client: Talk) -> None:
    assert (await client.open(session_id="c"))["driver"] == "claude-code"
    assert (await client.open(session_id="e", driver="echo"))["driver"] == "echo"
    assert text(await client.turn("e", "to and fro")) == "to and fro"
    refused = await client.http.post("/sessions", json={"driver": "failing"})  # which there is
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_driver")
    assert "claude-code, echo" in refused.json()["detail"]


async def test_plugins_are_loaded_with_settings_of_their_own(server: RunningServer, client: Talk) -> None:
    assert (await client.http.get(f"{server.url}/greeting")).text == "ahoy"
    async with httpx.AsyncClient(trust_env=False, timeout=HANG_SECONDS) as stranger:
        assert (await stranger.get(f"{server.url}/greeting")).status_code == 401
    await client.open(session_id="s")
    assert text(await client.turn("s", script({"say": "fine"}))) == "fine"
    assert "the plugin broken is left out: ModuleNotFoundError: No module named" in log(server)


async def test_disabled_plugins_are_not_there(server: RunningServer, client: Talk) -> None:
    assert (await client.http.get(f"{server.url}/greeting")).status_code == 200
    assert (await client.http.get(f"{server.url}/disabled")).status_code == 404


async def test_a_driver_that_fails_at_the_start_does_not_take_the_server_with_it(
    other: RunningServer, me: Talk
) -> None:
    await me.open(session_id="still", driver="claude-code")
    assert text(await me.turn("still", "hello"))
    assert "sessions cannot be opened: the driver failing failed" in log(other)


async def test_host_and_port(other: RunningServer) -> None:
    assert other.url.startswith("http://127.0.0.2:")
    assert httpx.get(f"{other.url}/healthz", timeout=HANG_SECONDS).status_code == 200


async def test_data_dir_is_private_and_holds_everything(other: RunningServer, me: Talk) -> None:
    elsewhere = other.data_dir
    session = await me.open(driver="claude-code")
    assert session["cwd"].startswith(str(elsewhere / "workspaces"))
    assert elsewhere.name == "elsewhere" and elsewhere.stat().st_mode & 0o777 == 0o700
    assert os.listdir(other.home) == []


async def test_workspace_roots(server: RunningServer, client: Talk, tmp_path: Path) -> None:
    root, outside = server.home.parent / "root", tmp_path / "outside"
    for folder in (root / "project", outside):
        folder.mkdir()
    (root / "link").symlink_to(outside)
    session = await client.open(cwd=str(root / "project"))
    assert session["cwd"] == str(root / "project")
    for cwd in (outside, root / ".." / "outside", root / "link"):
        answer = await client.http.post("/sessions", json={"cwd": str(cwd)})
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), cwd
    for wrong in ("relative", str(root / "missing")):
        answer = await client.http.post("/sessions", json={"cwd": wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cwd"), wrong
    assert (await client.open())["cwd"].startswith(str(root))


async def test_auth_tokens(other: RunningServer, me: Talk) -> None:
    assert (await me.open(driver="claude-code"))["owner"] == "me"
    assert not (other.data_dir / "token").exists()


async def test_log_format_and_that_no_query_is_logged(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="logged", driver="echo")
    await client.http.get("/stream/logged?query=very+private&turn_id=t")
    access = await access_to(server, "/claude/stream/logged")
    assert [(line["level"], line["status"]) for line in access] == [("INFO", 200)]
    assert "private" not in log(server)


async def seen_behind(server: RunningServer, client: Talk) -> str:
    """The address that is logged of a client that comes from this machine, and says more."""
    headers = {"X-Forwarded-For": "203.0.113.9, 192.0.2.1"}
    assert (await client.http.get("/sessions/behind", headers=headers)).status_code == 404
    return str((await access_to(server, "/claude/sessions/behind"))[0]["client"])


async def test_proxy_headers_say_who_is_calling(server: RunningServer, client: Talk) -> None:
    assert await seen_behind(server, client) == "192.0.2.1"


async def test_trusted_proxies_are_those_that_are_believed(other: RunningServer, me: Talk) -> None:
    assert await seen_behind(other, me) == "127.0.0.1"


async def made_at(server: RunningServer, client: Talk) -> tuple[str, str]:
    """The path that a new session is said to have, and the one that the document gives for the API."""
    proxied = {"X-Forwarded-Prefix": "/site"}
    made = await client.http.post("/sessions", json={"session_id": "made", "driver": "claude-code"}, headers=proxied)
    document = (await client.http.get(f"{server.url}/openapi.json", headers=proxied)).json()
    return made.headers["Location"], document["servers"][0]["url"]


async def test_root_path_is_where_clients_find_it(
    server: RunningServer, client: Talk, other: RunningServer, me: Talk
) -> None:
    assert await made_at(other, me) == ("/agents/claude/sessions/made", "/agents")
    assert (await me.http.get(f"{other.url}/agents/claude/sessions/made")).status_code == 200, "it can be followed"
    assert await made_at(server, client) == ("/site/claude/sessions/made", "/site"), "its proxy is trusted"


async def test_the_program_finds_an_api_below_a_path(other: RunningServer, me: Talk) -> None:
    await me.http.post("/sessions", json={"session_id": "found", "driver": "claude-code"})
    for path in ("/agents", "/agents/claude", ""):
        at = find_endpoint({}, other.home, server=other.url + path, token="my-own-secret")
        async with Client(at) as api:
            assert "found" in [each["session_id"] for each in await api.sessions()], path
            assert "portico_sessions" in await api.metrics()
    async with Client(find_endpoint({}, other.home, server=f"{other.url}/wrong", token="my-own-secret")) as api:
        with pytest.raises(ProblemError, match="--server wants the path of the API"):
            await api.sessions()


async def test_mcp_servers_are_the_operators(client: Talk) -> None:
    for asked in (["other"], ["offered", "other"], {"offered": {"command": "sh"}}):
        refused = await client.http.post("/sessions", json={"mcp_servers": asked})
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    await client.open(session_id="s", mcp_servers=["offered"], allowed_tools=["mcp__offered__hello"])
    turn = await client.turn("s", script({"tool": {"name": "mcp__offered__hello", "input": {}}}, {"say": "x"}))
    assert "hello from the operator's server" in json.dumps(only(turn, "tool_result")["content"])


async def test_allow_client_mcp(me: Talk) -> None:
    own = {"driver": "claude-code", "mcp_servers": {"own": HELLO}, "allowed_tools": ["mcp__own__hello"]}
    await me.open(session_id="mcp", **own)
    turn = await me.turn("mcp", script({"tool": {"name": "mcp__own__hello", "input": {}}}, {"say": "x"}))
    assert "hello from" in json.dumps(only(turn, "tool_result")["content"])


async def test_allow_client_agents(client: Talk) -> None:
    """Only that they are refused where the setting is off; test_options.py shows the rest."""
    agents = {"reviewer": {"description": "Reviews", "prompt": "You review."}}
    refused = await client.http.post("/sessions", json={"agents": agents})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    assert "allow_client_agents" in refused.json()["detail"]


async def test_setting_sources_allowed_tools_and_disallowed_tools(client: Talk) -> None:
    """Only that they are refused where nothing is allowed; test_busy.py and the first test show the rest."""
    refused = await client.http.post("/sessions", json={"setting_sources": ["project"]})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")


async def test_audit_log_says_where_it_is_kept_and_whether(server: RunningServer, other: RunningServer) -> None:
    folder = server.home.parent
    async with talk(server) as client, talk(other, "my-own-secret") as me:
        await client.open(session_id="audited")
        await me.open(session_id="audited", driver="claude-code")
        await client.http.delete("/sessions/audited?purge=true")
    with anyio.fail_after(HANG_SECONDS):  # lines are written by a thread, in their order
        while "session.purge" not in (kept := (folder / "elsewhere.jsonl").read_text()).partition('"audited"')[2]:
            await anyio.sleep(0.02)
    lines = [line for line in kept.splitlines() if '"session.create"' in line and '"audited"' in line]
    assert len(lines) == 1
    assert not (server.data_dir / "audit.jsonl").exists() and not (other.data_dir / "audit.jsonl").exists()

"""The secrets and prompts of a session are on no command line, and take effect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.mcp_server import serving_mcp
from tests.support.onlooker import DECOY, looking_on
from tests.support.sandbox import ROOT, working_sandbox
from tests.support.sdk import SDK_DRIVER
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

PROGRAM = str(ROOT / "tests" / "support" / "mcp_server.py")


def servers(mark: str, url: str) -> dict[str, Any]:
    """MCP servers with tokens: a program, and one over HTTP."""
    return {
        "program": {"command": sys.executable, "args": [PROGRAM], "env": {"TOKEN": f"{mark}-variable"}},
        "remote": {"type": "http", "url": url, "headers": {"X-Token": f"{mark}-header"}},
    }


def told(server: RunningServer, mark: str) -> set[str]:
    """Return the prompts of the model's last request."""
    body = server.model.requests[-1].body
    assert body is not None
    system = json.dumps(body["system"])
    return {name for name in ("instead", "appended") if f"{mark}-{name}" in system}


async def call_both(client: Talk, session_id: str) -> str:
    """Return the answers of the MCP servers."""
    uses = [{"tool": {"name": f"mcp__{name}__hello", "input": {}}} for name in ("program", "remote")]
    turn = await client.turn(session_id, script(*uses, {"say": "done"}))
    return json.dumps([event["content"] for event in turn if event["type"] == "tool_result"])


@pytest.mark.parametrize(
    ("driver", "sandbox"),
    [
        pytest.param("claude-code", "none", marks=pytest.mark.long),
        ("claude-code", "required"),
        pytest.param("claude-agent-sdk", "none", marks=pytest.mark.long),
    ],
)
async def test_prompts_and_tokens_are_used_and_on_no_command_line(tmp_path: Path, driver: str, sandbox: str) -> None:
    if sandbox == "required":
        await working_sandbox()
    if driver == "claude-agent-sdk":
        pytest.importorskip("claude_agent_sdk")
    mark = uuid4().hex
    root = tmp_path / f"{mark}-root"
    root.mkdir()
    with serving_mcp() as url, looking_on(mark, tmp_path) as onlooker:
        (tmp_path / "mcp.json").write_text(json.dumps(servers(mark, url)))
        variables = {
            **(SDK_DRIVER if driver == "claude-agent-sdk" else {}),
            "PORTICO_DRIVER": f"{driver},echo",
            "PORTICO_SANDBOX": sandbox,
            "PORTICO_MAX_PROCESSES": "1",
            "PORTICO_MCP_SERVERS": f"@{tmp_path}/mcp.json",
            "PORTICO_WORKSPACE_ROOTS": str(root),
        }
        async with running_server(tmp_path, **variables) as server, talk(server) as client:
            await client.open(
                session_id="a",
                title=f"{mark}-title",
                metadata={"note": f"{mark}-metadata"},
                cwd=str(root),
                system_prompt=f"{mark}-instead",
                append_system_prompt=f"{mark}-appended",
                mcp_servers=["program", "remote"],
                allowed_tools=["mcp__program__hello", "mcp__remote__hello"],
            )
            for _ in ("new", "resumed"):
                answers = await call_both(client, "a")
                assert f"{mark}-variable" in answers and f"{mark}-header" in answers
                assert told(server, mark) == {"instead", "appended"}
                await client.turn("a", f"{mark}-query")
                await onlooker.looked()
                await client.open(session_id="b", driver="echo")
                await client.turn("b", "whose process is it?")
                assert (await client.session("a"))["state"] == "hibernated"
                await client.http.delete("/sessions/b?purge=true")
            await client.turn("a", "/clear", commands=True)
            await client.turn("a", "hello")
            assert told(server, mark) == {"instead", "appended"}
            await onlooker.looked()
        assert onlooker.seen() == {DECOY}


@pytest.mark.long
async def test_a_claimed_agent_is_told_its_prompts_and_so_is_the_one_that_comes_after_it(tmp_path: Path) -> None:
    mark = uuid4().hex
    with looking_on(mark, tmp_path) as onlooker:
        async with running_server(tmp_path, PORTICO_POOL_SIZE="1") as server, talk(server) as client:
            await client.open(session_id="a", system_prompt=f"{mark}-instead", append_system_prompt=f"{mark}-appended")
            for query in ("claimed", "started"):
                await client.turn("a", query)
                assert told(server, mark) == {"instead", "appended"}
                await onlooker.looked()
                server.kill_agents()
                await client.until("a", "notice", name="agent_exited")
        assert onlooker.seen() == {DECOY}

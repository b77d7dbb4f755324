"""The structured parts of a tool's result, and the reasons of requests and denials: real server, CLI, MCP server."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import mcp_server
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, only, script

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    servers = json.dumps({"numbers": {"command": sys.executable, "args": [str(Path(mcp_server.__file__))]}})
    async with running_server(tmp_path_factory.mktemp("details"), PORTICO_MCP_SERVERS=servers) as server:
        yield server


def using(name: str, **given: Any) -> str:
    return script({"tool": {"name": name, "input": given}})


async def result_of(client: Talk, session_id: str, query: str) -> Event:
    """The only tool result of a turn."""
    return only(await client.turn(session_id, query), "tool_result")


async def test_a_changed_file_comes_as_a_patch(client: Talk) -> None:
    session = await client.open(permission_mode="acceptEdits")
    session_id, path = session["session_id"], f"{session['cwd']}/words.txt"
    made = await result_of(client, session_id, using("Write", file_path=path, content="one\ntwo\nthree\n"))
    assert made["details"] == {"patch": {"path": path, "change": "created", "hunks": []}}
    changed = await result_of(client, session_id, using("Edit", file_path=path, old_string="two", new_string="2"))
    hunk = {"old_start": 1, "old_lines": 3, "new_start": 1, "new_lines": 3}
    lines = [" one", "-two", "+2", " three"]
    assert changed["details"] == {"patch": {"path": path, "change": "updated", "hunks": [{**hunk, "lines": lines}]}}
    assert "details" not in await result_of(client, session_id, using("Read", file_path=path))


@pytest.mark.parametrize(("old", "new"), [("old\n" * 40_000, "new\n" * 40_000), ("a" * 150_000, "b" * 150_000)])
async def test_a_change_that_is_too_long_is_said_to_be_so(client: Talk, old: str, new: str) -> None:
    session = await client.open(permission_mode="acceptEdits")
    path = Path(session["cwd"], "long.txt")
    await client.turn(session["session_id"], using("Write", file_path=str(path), content=old))
    result = await result_of(client, session["session_id"], using("Write", file_path=str(path), content=new))
    assert result["is_error"] is False
    assert result["details"]["patch"] == {"path": str(path), "change": "updated", "hunks": [], "too_long": True}


async def test_the_structured_content_of_an_mcp_tool_comes_as_it_is(client: Talk) -> None:
    session = await client.open(mcp_servers=["numbers"], allowed_tools=["mcp__numbers__count"])
    result = await result_of(client, session["session_id"], using("mcp__numbers__count"))
    assert result["details"]["structured_content"] == {"number": 3}
    assert result["details"]["resource_links"] == [{"uri": "file:///numbers", "name": "numbers"}]


async def test_a_denied_tool_says_why(client: Talk) -> None:
    session = await client.open(permission_mode="dontAsk", disallowed_tools=["Write"])
    by_mode = await result_of(client, session["session_id"], using("Bash", command="touch file"))
    assert by_mode["is_error"] is True
    assert by_mode["details"]["denied"] == {"kind": "mode"}
    session = await client.open(disallowed_tools=["Bash(touch:*)"])
    by_rule = await result_of(client, session["session_id"], using("Bash", command="touch file"))
    assert by_rule["details"]["denied"] == {"kind": "subcommand_results"}


async def test_a_request_says_why_and_a_denial_that_it_was_the_answer(client: Talk, tmp_path: Path) -> None:
    session_id = (await client.open())["session_id"]
    path = tmp_path / "elsewhere.txt"
    path.write_text("secret")
    await client.start(session_id, using("Read", file_path=str(path)))
    request = await client.until(session_id, "permission_request")
    assert request["why"]["kind"] == "working_dir"
    assert "outside" in request["why"]["text"]
    await client.answer(session_id, request["request_id"], behavior="deny", message="no")
    result = await client.until(session_id, "tool_result")
    assert result["details"] == {"denied": {"kind": "answer"}}


async def test_a_request_about_a_file_names_it(client: Talk) -> None:
    session = await client.open()
    await client.start(session["session_id"], using("Bash", command="touch file; echo done"))
    request = await client.until(session["session_id"], "permission_request")
    assert request["why"] == {"kind": "working_dir", "path": f"{session['cwd']}/file"}
    await client.answer(session["session_id"], request["request_id"], behavior="deny")
    await client.until(session["session_id"], "complete")

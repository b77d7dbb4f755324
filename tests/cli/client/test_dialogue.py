"""`portico chat` and `portico ask` put the agent's questions to the user as a person would."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from tests.cli.client.test_chat import chat, say
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, ROOT, RunningServer, running_server
from tests.support.talk import only, script, talk
from tests.support.terminal import CTRL_D, on_terminal

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

BOOKING = {"command": sys.executable, "args": [str(ROOT / "tests" / "support" / "eliciting_server.py")]}
BOOK = script({"tool": {"name": "mcp__booking__book", "input": {}}}, {"say": "booked"})
LOG_IN = script({"tool": {"name": "mcp__booking__book", "input": {"login": "yes"}}}, {"say": "booked"})
PLAN = script({"tool": {"name": "ExitPlanMode", "input": {}}}, {"say": "noted"})
ANSWER = "Enter skips it): "


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"booking": BOOKING}}))
    settings = {"PORTICO_MAX_SESSIONS": "100", "PORTICO_MCP_SERVERS": f"@{folder}/mcp.json"}
    async with running_server(folder, **settings, PORTICO_DRAIN_TIMEOUT="0.5") as server:
        yield server


async def session(server: RunningServer, **options: Any) -> str:
    async with talk(server) as client:
        opened = await client.open(session_id=uuid.uuid4().hex, **options)
    return str(opened["session_id"])


async def outcome(server: RunningServer, session_id: str) -> tuple[dict[str, Any], str]:
    """Return the end of the only request, and the result of its tool."""
    async with talk(server) as client:
        found = await client.history(session_id)
    return only(found, "permission_resolved"), json.dumps(only(found, "tool_result")["content"])


async def test_questions_are_answered_by_numbers_and_in_words_of_ones_own(server: RunningServer) -> None:
    name = await session(server)
    async with chat(server, name) as terminal:
        await say(terminal, "Ask me a question")
        asked = await terminal.until(ANSWER)
        assert "? Which colour?\n    1  Red   like a rose\n    2  Blue  like the sea\n" in asked
        await terminal.type("9\n")
        assert "there is no 9" in await terminal.until(ANSWER)
        await terminal.type("teal\n")
        assert "    3  L  the size L\n" in await terminal.until("(numbers, such as 1,3, or your own words; " + ANSWER)
        await terminal.type("1,3\n")
        await say(terminal, "/quit")
        assert await terminal.exit_status() == 0
    resolved, result = await outcome(server, name)
    assert resolved["behavior"] == "allow" and "teal" in result and "S, L" in result


@pytest.mark.parametrize("keys", ["\n", CTRL_D])
async def test_questions_may_be_skipped(server: RunningServer, keys: str) -> None:
    name = await session(server)
    command = [*PORTICO, "ask", "--session", name, "Ask me a question"]
    async with on_terminal(command, server.client_env, server.home) as terminal:
        for _ in range(1 if keys == CTRL_D else 2):
            await terminal.until(ANSWER)
            await terminal.type(keys)
        assert await terminal.exit_status() == 0
    assert (await outcome(server, name))[0]["behavior"] == "deny"


async def test_a_plan_is_shown_and_changed_and_carried_out(server: RunningServer) -> None:
    prompt = "carry it out? [y]es, yes and [e]dit files without asking, [n]o: "
    name = await session(server, permission_mode="plan")
    async with chat(server, name) as terminal:
        await say(terminal, PLAN)
        assert "? The agent has a plan:\n" in await terminal.until(prompt)
        await terminal.type("n\n")
        await terminal.until("what should be different? (Enter: nothing to say) ")
        await terminal.type("more tests\n")
        await terminal.until("more tests")
        await say(terminal, PLAN)
        await terminal.until(prompt)
        await terminal.type("e\n")
        await say(terminal, "/quit")
        assert await terminal.exit_status() == 0
    async with talk(server) as client:
        resolved = [each["behavior"] for each in await client.history(name) if each["type"] == "permission_resolved"]
        assert resolved == ["deny", "allow"]
        assert (await client.session(name))["permission_mode"] == "acceptEdits"


BOOKED = {"mcp_servers": ["booking"], "allowed_tools": ["mcp__booking__book"]}


async def test_a_form_is_filled_in_field_by_field_and_again_if_the_server_does_not_take_it(
    server: RunningServer,
) -> None:
    name = await session(server, **BOOKED)
    async with chat(server, name) as terminal:
        await say(terminal, BOOK)
        assert "? booking asks: For how many?" in await terminal.until("answer it? [y]es, [n]o: ")
        await terminal.type("y\n")
        for keys in ("many\n", "12\n"):
            await terminal.until("People (a whole number from 1 to 9): ")
            await terminal.type(keys)
        await terminal.until("place (a number; Enter skips it): ")
        await terminal.type("2\n")
        await terminal.until("quiet (y or n; Enter skips it): ")
        await terminal.type("\n")
        assert "the answer did not count: content.people" in await terminal.until("answer it? [y]es, [n]o: ")
        for prompt, keys in (("", "y\n"), ("1 to 9): ", "2\n"), ("place (", "2\n"), ("quiet (", "n\n")):
            await terminal.until(prompt)
            await terminal.type(keys)
        await say(terminal, "/quit")
        assert await terminal.exit_status() == 0
    resolved, result = await outcome(server, name)
    assert resolved["behavior"] == "allow"
    assert json.loads(json.loads(result)[0]["text"])["content"] == {"people": 2, "place": "outside", "quiet": False}


async def test_a_page_is_shown_for_the_user_to_open(server: RunningServer) -> None:
    name = await session(server, **BOOKED)
    command = [*PORTICO, "ask", "--session", name, LOG_IN]
    async with on_terminal(command, server.client_env, server.home) as terminal:
        assert "http://127.0.0.1:1/login" in await terminal.until("have you opened that page? [y]es, [n]o: ")
        await terminal.type("n\n")
        assert await terminal.exit_status() == 0
    resolved, result = await outcome(server, name)
    assert resolved["behavior"] == "deny" and "decline" in result


async def test_with_nobody_to_ask_questions_stay_unanswered_even_where_all_is_allowed(server: RunningServer) -> None:
    name = await session(server)
    command = [*PORTICO, "ask", "--allow", "--session", name, "Ask me a question"]
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(command, env=server.client_env, cwd=server.home, check=False)
    assert done.returncode == 0
    assert b"not answered: AskUserQuestion" in done.stderr
    assert "Nobody is there" in (await outcome(server, name))[1]

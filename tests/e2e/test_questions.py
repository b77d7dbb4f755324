"""Requests for more than permission: questions, plans, and what MCP servers want to know. The real CLI asks."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ROOT, RunningServer, running_server
from tests.support.talk import Talk, only, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

COLOUR = {
    "question": "Which colour?",
    "header": "Colour",
    "options": [{"label": "Red", "description": "like a rose"}, {"label": "Blue", "description": "like the sea"}],
    "multiSelect": False,
}
SIZES = {
    "question": "Which sizes?",
    "header": "Sizes",
    "options": [{"label": label, "description": label} for label in ("S", "M", "L")],
    "multiSelect": True,
}
ASKS = {"tool": {"name": "AskUserQuestion", "input": {"questions": [COLOUR, SIZES]}}}
BOOKS = {"tool": {"name": "mcp__booking__book", "input": {}}}
LOGS_IN = {"tool": {"name": "mcp__booking__book", "input": {"login": "yes"}}}
BOOKING = {"command": sys.executable, "args": [str(ROOT / "tests" / "support" / "eliciting_server.py")]}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    """A server that offers the MCP server ``booking``."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"booking": BOOKING}}))
    variables = {"PORTICO_MCP_SERVERS": f"@{folder}/mcp.json"}
    async with running_server(folder, **variables) as server:
        yield server


async def asked(client: Talk, *steps: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The request of a new session ``s`` for these steps."""
    await client.open(session_id="s", **options)
    await client.start("s", script(*steps, {"say": "noted"}))
    return await client.until("s", "permission_request")


async def refused(client: Talk, request: dict[str, Any], **answer: Any) -> list[Any]:
    """The paths to the mistakes in an answer that is refused; the request waits on."""
    response = await client.answer("s", request["request_id"], **answer)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_answer"), response.text
    (waiting,) = (await client.session("s"))["pending_permissions"]
    assert waiting["request_id"] == request["request_id"]
    return [mistake["loc"] for mistake in response.json()["errors"]]


async def result_of(client: Talk, request: dict[str, Any], **answer: Any) -> str:
    """The result of the tool whose request gets this answer."""
    response = await client.answer("s", request["request_id"], **answer)
    assert response.status_code == 200, response.text
    assert (await client.until("s", "complete"))["stop_reason"] == "end_turn"
    return json.dumps(only(await client.history("s"), "tool_result")["content"])


async def test_questions_come_with_their_options_and_the_answers_reach_the_agent(client: Talk) -> None:
    request = await asked(client, ASKS)
    assert request["kind"] == "question" and "expires_at" not in request
    colour, sizes = request["questions"]
    assert (colour["question"], colour["header"], colour["multi_select"]) == ("Which colour?", "Colour", False)
    assert [option["label"] for option in sizes["options"]] == ["S", "M", "L"] and sizes["multi_select"]
    allow = {"behavior": "allow"}
    assert await refused(client, request, **allow) == [["answers"]]
    assert await refused(client, request, **allow, answers={}) == [["answers"]]
    wrong = {"Which colour?": ["Red", "Blue"], "Which sizes?": [" "], "Why?": "so"}
    mistakes = await refused(client, request, **allow, answers=wrong)
    assert mistakes == [["answers", "Which colour?"], ["answers", "Which sizes?"], ["answers", "Why?"]]
    assert await refused(client, request, **allow, updated_input={**request["input"], "answers": {"Why?": "so"}})
    assert await refused(client, request, **allow, answers={"Which colour?": "Red"}, remember=True) == [["remember"]]
    assert await refused(client, request, **allow, content={"people": 2}) == [["content"]]
    said = await result_of(client, request, **allow, answers={"Which colour?": "teal", "Which sizes?": ["S", "L"]})
    assert "teal" in said and "S, L" in said


async def test_a_question_that_is_denied_is_not_answered(client: Talk) -> None:
    said = await result_of(client, await asked(client, ASKS), behavior="deny", message="ask me tomorrow")
    assert "ask me tomorrow" in said


async def test_a_plan_comes_as_text_and_is_carried_out_in_the_chosen_mode(server: RunningServer, client: Talk) -> None:
    request = await asked(client, {"tool": {"name": "ExitPlanMode", "input": {}}}, permission_mode="plan")
    assert (request["kind"], request["plan"], request["permission_mode"]) == ("plan", "", "default")
    assert await refused(client, request, behavior="allow", permission_mode="plan") == [["permission_mode"]]
    assert await refused(client, request, behavior="allow", answers={"Why?": "so"}) == [["answers"]]
    forbidden = await client.answer("s", request["request_id"], behavior="allow", permission_mode="bypassPermissions")
    assert (forbidden.status_code, forbidden.json()["code"]) == (403, "not_allowed")
    assert "approved" in await result_of(client, request, behavior="allow", permission_mode="acceptEdits")
    session = await client.session("s")
    assert session["permission_mode"] == "acceptEdits"
    target = Path(session["cwd"]) / "file.txt"
    await client.turn("s", script({"tool": {"name": "Write", "input": {"file_path": str(target), "content": "x"}}}))
    assert target.read_text() == "x"


async def test_a_plan_that_is_written_down_is_what_is_asked_for(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s", permission_mode="plan")
    await client.turn("s", script({"say": "hello"}))
    told = json.dumps((server.model.requests[-1].body or {})["messages"])
    path = told[told.index("/", told.rindex(" ", 0, told.index("/plans/"))) : told.index(".md", told.index("/plans/"))]
    write = {"tool": {"name": "Write", "input": {"file_path": f"{path}.md", "content": "# First a test"}}}
    await client.start("s", script(write, {"tool": {"name": "ExitPlanMode", "input": {}}}))
    request = await client.until("s", "permission_request", kind="plan")
    assert request["plan"] == "# First a test"
    await client.answer("s", request["request_id"], behavior="deny", message="test more")
    await client.until("s", "complete", after=request["seq"])
    assert "test more" in json.dumps((server.model.requests[-1].body or {})["messages"][-1])


BOOKED = {"mcp_servers": ["booking"], "allowed_tools": ["mcp__booking__book"]}


async def test_what_an_mcp_server_asks_comes_with_its_schema_and_only_what_fits_goes_back(client: Talk) -> None:
    request = await asked(client, BOOKS, **BOOKED)
    assert (request["kind"], request["mcp_server"], request["message"]) == ("elicitation", "booking", "For how many?")
    assert request["schema"]["properties"]["people"]["maximum"] == 9
    for content in ({}, {"people": "two"}, {"people": 10}, {"people": 2, "place": "roof"}, None):
        wrong = await refused(client, request, behavior="allow", content=content)
        assert [mistake[0] for mistake in wrong] == ["content"], content
    assert await refused(client, request, behavior="allow", updated_input={"people": 2}) == [["updated_input"]]
    said = await result_of(client, request, behavior="allow", content={"people": 2, "place": "inside"})
    assert "accept" in said and "inside" in said


@pytest.mark.parametrize(("behavior", "action"), [("allow", "accept"), ("deny", "decline")])
async def test_a_page_that_an_mcp_server_wants_to_be_opened_is_its_url(
    client: Talk, behavior: str, action: str
) -> None:
    request = await asked(client, LOGS_IN, **BOOKED)
    assert (request["kind"], request["url"]) == ("elicitation", "http://127.0.0.1:1/login") and "schema" not in request
    assert await refused(client, request, behavior="allow", content={"people": 2}) == [["content"]]
    assert action in await result_of(client, request, behavior=behavior)


@pytest.mark.long
async def test_an_answer_that_comes_after_the_process_was_given_up_brings_the_agent_back(tmp_path: Path) -> None:
    """For a question in the first turn of a process, and a plan in a turn of a process that goes on."""
    async with running_server(tmp_path, PORTICO_MAX_PROCESSES="1", PORTICO_POOL_SIZE="0") as server:
        async with talk(server) as client:
            await client.open(session_id="other")
            request = await asked(client, ASKS, permission_mode="plan")
            (agent,) = server.agents()
            await client.turn("other", script({"say": "hello"}))
            assert agent.pid not in [each.pid for each in server.agents()]
            waiting = await client.session("s")
            assert waiting["state"] == "waiting" and len(waiting["pending_permissions"]) == 1
            said = await result_of(client, request, behavior="allow", answers={"Which colour?": "teal"})
            assert "teal" in said
            assert "teal" in json.dumps((server.model.requests[-1].body or {})["messages"][-1])
            first = only(await client.history("s"), "complete")
            assert first["usage"]["input_tokens"] == 20  # of a request in each process
            await client.turn("other", script({"say": "hello"}))

            seq = (await client.session("s"))["last_seq"]
            await client.start("s", script({"tool": {"name": "ExitPlanMode", "input": {}}}, {"say": "noted"}))
            plan = await client.until("s", "permission_request", after=seq)
            await client.turn("other", script({"say": "hello"}))
            answered = await client.answer("s", plan["request_id"], behavior="allow", permission_mode="acceptEdits")
            assert answered.status_code == 200
            complete = await client.until("s", "complete", after=seq)
            assert complete["stop_reason"] == "end_turn"
            assert "approved" in json.dumps((server.model.requests[-1].body or {})["messages"][-2:])
            session = await client.session("s")
            assert (session["state"], session["permission_mode"]) == ("idle", "acceptEdits")
            target = Path(session["cwd"]) / "file.txt"
            await client.turn(
                "s", script({"tool": {"name": "Write", "input": {"file_path": str(target), "content": "x"}}})
            )
            assert target.read_text() == "x"

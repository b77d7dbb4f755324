"""The options of sessions and turns beside the seed's: real server, real CLI, scripted model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
WORD = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    folder = tmp_path_factory.mktemp("options")
    (folder / "shared").mkdir()
    settings = {"PORTICO_ALLOW_CLIENT_AGENTS": "true", "PORTICO_WORKSPACE_ROOTS": f"{folder}/work,{folder}/shared"}
    async with running_server(folder, **settings) as server:
        yield server


def using(name: str, **given: Any) -> dict[str, Any]:
    return {"tool": {"name": name, "input": given}}


def structured(*values: dict[str, Any]) -> str:
    """A query that is answered with these, one after another until one fits."""
    return script(*(using("StructuredOutput", **value) for value in values))


def error_of(turn: list[dict[str, Any]]) -> tuple[str, str]:
    return only(turn, "error")["code"], turn[-1]["stop_reason"]


# Structured output.


async def test_a_sessions_turns_return_what_fits_its_schema(client: Talk) -> None:
    await client.open(session_id="fits", output_schema=NUMBER)
    turn = await client.turn("fits", structured({"number": 3}))
    assert (turn[-1]["structured_output"], turn[-1]["stop_reason"]) == ({"number": 3}, "end_turn")
    turn = await client.turn("fits", structured({"number": "four"}, {"number": 4}))
    assert turn[-1]["structured_output"] == {"number": 4}
    turn = await client.turn("fits", script({"say": "in words"}, using("StructuredOutput", number=5)))
    assert turn[-1]["structured_output"] == {"number": 5}
    assert [event["content"] for event in turn if event["type"] == "query"] == [turn[0]["content"]]


async def test_a_turns_schema_is_for_that_turn_and_the_context_stays(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="once")
    await client.turn("once", "the word is anchovy")
    turn = await client.turn("once", structured({"word": "anchovy"}), output_schema=WORD)
    assert turn[-1]["structured_output"] == {"word": "anchovy"}
    assert "anchovy" in str(server.model.requests[-1].body["messages"][0])
    turn = await client.turn("once", "and this one", output_schema=NUMBER)
    assert turn[-1]["structured_output"] == {"number": 1}
    turn = await client.turn("once", "and now in words")
    assert "structured_output" not in turn[-1] and turn[-1]["stop_reason"] == "end_turn"
    assert "StructuredOutput" not in [tool["name"] for tool in server.model.requests[-1].body["tools"]]
    names = [event["name"] for event in await client.history("once") if event["type"] == "notice"]
    assert "context_lost" not in names


async def test_an_agent_that_returns_nothing_that_fits_ends_its_turn_in_an_error(client: Talk) -> None:
    await client.open(session_id="unfit", output_schema=NUMBER)
    turn = await client.turn("unfit", structured(*[{"number": "x"}] * 8))
    assert error_of(turn) == ("no_structured_output", "error")
    assert "structured_output" not in turn[-1]
    assert error_of(await client.turn("unfit", script({"say": "in words"}))) == ("no_structured_output", "error")
    turn = await client.turn("unfit", "/context", commands=True)
    assert turn[-1]["stop_reason"] == "end_turn"
    assert (await client.turn("unfit", structured({"number": 1})))[-1]["structured_output"] == {"number": 1}


@pytest.mark.parametrize(
    "schema",
    [
        {**NUMBER, "x-unknown": 1},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}},
    ],
    ids=["keyword", "reference", "elsewhere"],
)
async def test_a_schema_that_the_agent_cannot_use_ends_the_turn_in_an_error(
    client: Talk, schema: dict[str, Any]
) -> None:
    session_id = (await client.open())["session_id"]
    turn = await client.turn(session_id, script({"say": "many", "words": 2000, "gap_ms": 20}), output_schema=schema)
    assert error_of(turn) == ("output_schema_refused", "error")
    assert (await client.turn(session_id, "hello"))[-1]["stop_reason"] == "end_turn"


async def test_a_schema_lasts_through_hibernation(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_MAX_PROCESSES="1") as server, talk(server) as client:
        await client.open(session_id="long", output_schema=NUMBER, effort="low")
        await client.turn("long", structured({"number": 1}))
        await client.open(session_id="other")
        await client.turn("other", "hello")
        assert (await client.session("long"))["state"] == "hibernated"
        assert (await client.turn("long", structured({"number": 2})))[-1]["structured_output"] == {"number": 2}
        assert server.model.requests[-1].body["output_config"]["effort"] == "low"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "array"},
        {"type": "object", "properties": {"a": {"type": "nonsense"}}},
        {"type": "object", "properties": {"a": {"pattern": "("}}},
        {"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema"},
        {"type": "object", "description": "x" * 33_000},
    ],
)
async def test_what_is_no_schema_is_refused_and_the_session_unharmed(client: Talk, schema: dict[str, Any]) -> None:
    refused = await client.http.post("/sessions", json={"output_schema": schema})
    assert refused.status_code == 422 and refused.json()["errors"][0]["loc"] == ["output_schema"]
    session_id = (await client.open())["session_id"]
    body = {"query": "hello", "output_schema": schema}
    refused = await client.http.post(f"/sessions/{session_id}/turns", json=body)
    assert refused.status_code == 422
    steered = {**body, "output_schema": NUMBER, "if_busy": "steer"}
    assert (await client.http.post(f"/sessions/{session_id}/turns", json=steered)).status_code == 422
    assert (await client.session(session_id))["turns"] == 0


# Effort and models.


async def test_effort_reaches_the_model_and_may_change(server: RunningServer, client: Talk) -> None:
    session = await client.open(session_id="effort", effort="high")
    assert session["effort"] == "high"

    async def effort() -> str:
        await client.turn("effort", "hello")
        return str(server.model.requests[-1].body["output_config"]["effort"])

    assert await effort() == "high"
    changed = await client.http.patch("/sessions/effort", json={"effort": "low"})
    assert changed.json()["effort"] == "low"
    assert await effort() == "low"
    assert (await client.http.patch("/sessions/effort", json={"effort": None})).json()["effort"] is None
    assert await effort() not in ("low", "high")
    assert (await client.http.patch("/sessions/effort", json={"effort": "heroic"})).status_code == 422


async def test_where_the_model_is_overloaded_the_fallback_model_answers(server: RunningServer, client: Talk) -> None:
    session = await client.open(session_id="fallback", model="opus", fallback_model="haiku")
    assert session["fallback_model"] == "haiku"
    turn = await client.turn("fallback", script({"error": 529, "times": 3, "say": "here I am"}))
    assert text(turn) == "here I am"
    assert "haiku" in server.model.requests[-1].body["model"]


# Folders.


async def test_an_agent_works_in_the_folders_that_were_added(
    server: RunningServer, client: Talk, tmp_path: Path
) -> None:
    shared = server.data_dir.parent / "shared" / "notes"
    shared.mkdir()
    (shared / "old.txt").write_text("an old note")
    session = await client.open(add_dirs=[str(shared)], permission_mode="acceptEdits")
    assert session["add_dirs"] == [str(shared)]
    edit = [
        using("Read", file_path=str(shared / "old.txt")),
        using("Write", file_path=str(shared / "new.txt"), content="a new note"),
    ]
    turn = await client.turn(session["session_id"], script(*edit))
    assert "permission_request" not in [event["type"] for event in turn]
    assert "an old note" in str(next(event for event in turn if event["type"] == "tool_result")["content"])
    assert (shared / "new.txt").read_text() == "a new note"


@pytest.mark.parametrize(
    ("folder", "status", "code"),
    [
        ("/etc", 403, "not_allowed"),
        ("relative", 422, "invalid_add_dirs"),
        ("{shared}/missing", 422, "invalid_add_dirs"),
    ],
)
async def test_a_folder_that_may_not_be_added_is_refused(
    server: RunningServer, client: Talk, folder: str, status: int, code: str
) -> None:
    named = folder.format(shared=server.data_dir.parent / "shared")
    refused = await client.http.post("/sessions", json={"add_dirs": [named]})
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert "add_dirs" in refused.json()["detail"]


# Subagents.

REVIEWER = {"description": "Reviews", "prompt": "You look at words.", "tools": ["Read", "Bash"], "model": "haiku"}


def delegate(*steps: dict[str, Any]) -> str:
    given = {"subagent_type": "reviewer", "description": "look", "prompt": script(*steps), "run_in_background": False}
    return script(using("Agent", **given))


async def test_a_subagent_of_the_clients_has_its_prompt_its_model_and_its_tools(
    server: RunningServer, client: Talk
) -> None:
    await client.open(session_id="team", agents={"reviewer": REVIEWER}, disallowed_tools=["Bash"])
    turn = await client.turn("team", delegate({"say": "it is fine"}))
    assert turn[-1]["stop_reason"] == "end_turn"
    asked = [
        request.body
        for request in server.model.requests
        if request.body and "You look at words." in str(request.body.get("system"))
    ]
    assert asked and "haiku" in asked[-1]["model"]
    assert [tool["name"] for tool in asked[-1]["tools"]] == ["Read"]


async def test_a_subagent_has_no_more_rights_than_its_session(client: Talk) -> None:
    agent = {**REVIEWER, "tools": ["Write"]}
    session = await client.open(agents={"reviewer": agent})
    await client.start(session["session_id"], delegate(using("Write", file_path="a.txt", content="x")))
    request = await client.until(session["session_id"], "permission_request")
    assert request["tool_name"] == "Write"
    await client.answer(session["session_id"], request["request_id"], behavior="deny")
    await client.until(session["session_id"], "complete")


@pytest.mark.parametrize(
    "agent",
    [
        {"description": "no prompt"},
        {**REVIEWER, "permissionMode": "bypassPermissions"},
        {**REVIEWER, "hooks": {}},
        {**REVIEWER, "mcpServers": ["x"]},
        {**REVIEWER, "prompt": "x" * 300_000},
    ],
)
async def test_a_subagent_is_made_of_known_members(client: Talk, agent: dict[str, Any]) -> None:
    assert (await client.http.post("/sessions", json={"agents": {"reviewer": agent}})).status_code == 422

"""Permission to use a tool, proven on the file system: real server, real CLI, scripted model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


def write(path: Path) -> str:
    tool = {"name": "Write", "input": {"file_path": str(path), "content": "written"}}
    return script({"tool": tool}, {"say": "after"})


async def request_of(client: Talk, session_id: str) -> dict[str, Any]:
    return await client.until(session_id, "permission_request")


async def test_allowed_the_tool_writes_and_the_turn_goes_on(client: Talk) -> None:
    session = await client.open(session_id="s")
    target = Path(session["cwd"]) / "file.txt"
    await client.start("s", write(target))
    request = await request_of(client, "s")
    assert request["tool_name"] == "Write" and request["input"]["file_path"] == str(target)
    assert "expires_at" in request
    waiting = await client.session("s")
    assert waiting["state"] == "waiting"
    assert [each["request_id"] for each in waiting["pending_permissions"]] == [request["request_id"]]
    assert not target.exists()
    answer = await client.answer("s", request["request_id"], behavior="allow")
    assert answer.status_code == 200
    complete = await client.until("s", "complete")
    assert complete["stop_reason"] == "end_turn"
    assert target.read_text() == "written"
    history = await client.history("s")
    resolved = only(history, "permission_resolved")
    assert (resolved["behavior"], resolved["principal"], resolved["reason"]) == ("allow", "admin", "answered")
    assert only(history, "tool_result")["is_error"] is False
    assert text(history).endswith("after")
    assert (await client.session("s"))["pending_permissions"] == []


async def test_denied_the_tool_does_not_run_and_the_model_is_told_why(server: RunningServer, client: Talk) -> None:
    session = await client.open(session_id="s")
    target = Path(session["cwd"]) / "file.txt"
    await client.start("s", write(target))
    request = await request_of(client, "s")
    await client.answer("s", request["request_id"], behavior="deny", message="not on a Sunday")
    complete = await client.until("s", "complete")
    assert complete["stop_reason"] == "end_turn"
    assert not target.exists()
    assert only(await client.history("s"), "tool_result")["is_error"] is True
    assert "not on a Sunday" in str(server.model.requests[-1].body)


async def test_the_input_may_be_changed_by_who_allows(client: Talk) -> None:
    session = await client.open(session_id="s")
    folder = Path(session["cwd"])
    await client.start("s", write(folder / "file.txt"))
    request = await request_of(client, "s")
    changed = {"file_path": str(folder / "other.txt"), "content": "changed"}
    await client.answer("s", request["request_id"], behavior="allow", updated_input=changed)
    await client.until("s", "complete")
    assert os.listdir(folder) == ["other.txt"]
    assert (folder / "other.txt").read_text() == "changed"


async def test_of_two_answers_at_once_the_first_wins_and_the_second_learns_whose_it_was(client: Talk) -> None:
    session = await client.open(session_id="s")
    await client.start("s", write(Path(session["cwd"]) / "file.txt"))
    request = await request_of(client, "s")
    answers: list[httpx.Response] = []

    async def answer(behavior: str) -> None:
        answers.append(await client.answer("s", request["request_id"], behavior=behavior))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer, "allow")
        tasks.start_soon(answer, "deny")
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    lost = next(answer for answer in answers if answer.status_code == 409).json()
    await client.until("s", "complete")
    resolved = only(await client.history("s"), "permission_resolved")
    assert lost["code"] == "already_resolved"
    assert (lost["behavior"], lost["principal"]) == (resolved["behavior"], resolved["principal"])
    unknown = await client.answer("s", "nonsense", behavior="allow")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "request_not_found")


async def test_an_interrupt_withdraws_the_request(client: Talk) -> None:
    session = await client.open(session_id="s")
    target = Path(session["cwd"]) / "file.txt"
    await client.start("s", write(target))
    await request_of(client, "s")
    assert (await client.http.post("/sessions/s/interrupt")).status_code == 202
    complete = await client.until("s", "complete")
    assert complete["stop_reason"] == "interrupted"
    resolved = only(await client.history("s"), "permission_resolved")
    assert (resolved["behavior"], resolved["reason"]) == ("deny", "interrupted")
    assert not target.exists()
    assert text(await client.turn("s", script({"say": "fine"}))) == "fine"


async def test_an_agent_that_dies_withdraws_its_request(server: RunningServer, client: Talk) -> None:
    session = await client.open(session_id="s")
    await client.start("s", write(Path(session["cwd"]) / "file.txt"))
    await request_of(client, "s")
    server.kill_agents()
    complete = await client.until("s", "complete")
    assert complete["stop_reason"] == "error"
    resolved = only(await client.history("s"), "permission_resolved")
    assert (resolved["behavior"], resolved["reason"]) == ("deny", "agent_exited")
    assert (await client.session("s"))["pending_permissions"] == []


async def test_a_request_does_not_outlive_a_server_that_was_killed(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_STORE="sqlite") as server, talk(server) as client:
        session = await client.open(session_id="s")
        tool = {"name": "Write", "input": {"file_path": f"{session['cwd']}/first.txt", "content": "x"}}
        await client.start("s", script({"tool": tool}, {"tool": tool}))
        first = await request_of(client, "s")
        (await client.answer("s", first["request_id"], behavior="allow")).raise_for_status()
        await client.until("s", "permission_request", after=first["seq"])
        server.process.kill()
        await server.process.wait()
    (tmp_path / "again").mkdir()
    again = running_server(tmp_path / "again", PORTICO_DATA_DIR=str(server.data_dir), PORTICO_STORE="sqlite")
    async with again as server, talk(server) as client:
        history = await client.history("s")
        asked = [event["request_id"] for event in history if event["type"] == "permission_request"]
        settled = [
            (event["request_id"], event["reason"]) for event in history if event["type"] == "permission_resolved"
        ]
        assert len(asked) == 2 and settled == [(asked[0], "answered"), (asked[1], "agent_exited")]
        assert [event["type"] for event in history[-4:]] == ["permission_resolved", "error", "complete", "session"]


async def test_what_is_remembered_is_not_asked_again_in_this_session(client: Talk) -> None:
    session = await client.open(session_id="s")
    folder = Path(session["cwd"])
    await client.start("s", write(folder / "one.txt"))
    request = await request_of(client, "s")
    assert request["suggestions"]
    await client.answer("s", request["request_id"], behavior="allow", remember=True)
    complete = await client.until("s", "complete")
    turn = await client.turn("s", write(folder / "two.txt"))
    assert not [event for event in turn if event["type"] == "permission_request"]
    assert (folder / "two.txt").read_text() == "written"
    assert complete["stop_reason"] == turn[-1]["stop_reason"] == "end_turn"


async def test_the_agents_questions_are_answered_by_a_person(client: Talk) -> None:
    options = [{"label": "Red", "description": "like a rose"}, {"label": "Blue", "description": "like the sea"}]
    question = {"question": "Which colour?", "header": "Colour", "options": options, "multiSelect": False}
    tool = {"name": "AskUserQuestion", "input": {"questions": [question]}}
    await client.open(session_id="s")
    await client.start("s", script({"tool": tool}, {"say": "noted"}))
    request = await request_of(client, "s")
    assert request["tool_name"] == "AskUserQuestion"
    answered = {**request["input"], "answers": {"Which colour?": "Blue"}}
    await client.answer("s", request["request_id"], behavior="allow", updated_input=answered)
    assert (await client.until("s", "complete"))["stop_reason"] == "end_turn"
    assert "Blue" in str(only(await client.history("s"), "tool_result")["content"])


async def test_a_plan_is_approved_by_a_person(client: Talk) -> None:
    session = await client.open(session_id="s", permission_mode="plan")
    target = Path(session["cwd"]) / "file.txt"
    tool = {"name": "ExitPlanMode", "input": {"plan": "Write a file."}}
    await client.start("s", script({"tool": tool}, {"say": "going"}))
    request = await request_of(client, "s")
    assert request["tool_name"] == "ExitPlanMode"
    assert not target.exists()
    await client.answer("s", request["request_id"], behavior="allow")
    assert (await client.until("s", "complete"))["stop_reason"] == "end_turn"
    assert only(await client.history("s"), "tool_result")["is_error"] is False

"""Requests to a busy session: interrupt, steer, withdraw; and changes of it while it lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SLOW = {"words": 1000, "say": "w ", "gap_ms": 50}
SLEEP = {"tool": {"name": "Bash", "input": {"command": "sleep 1.5"}}}


def of(history: list[Event], turn_id: str) -> list[Event]:
    return [event for event in history if event.get("turn_id") == turn_id]


def ends(history: list[Event]) -> dict[str, str]:
    """Return the end of each turn; each ends once."""
    completes = [event for event in history if event["type"] == "complete"]
    found = {event["turn_id"]: event["stop_reason"] for event in completes}
    assert len(found) == len(completes)
    return found


async def test_interrupt_stops_the_running_turn_and_runs_before_those_that_wait(client: Talk) -> None:
    await client.open(session_id="s")
    await client.start("s", script(SLOW), turn_id="long")
    await client.until("s", "delta")
    await client.start("s", script({"say": "waited"}), turn_id="waiting")
    urgent = await client.turn("s", script({"say": "urgent"}), turn_id="urgent", if_busy="interrupt")
    assert text(urgent) == "urgent"
    await client.until("s", "complete", turn_id="waiting")
    history = await client.history("s")
    assert ends(history) == {"long": "interrupted", "urgent": "end_turn", "waiting": "end_turn"}
    order = [event["turn_id"] for event in history if event["type"] == "complete"]
    assert order == ["long", "urgent", "waiting"]


async def test_steering_hands_a_message_to_the_running_turn(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s", allowed_tools=["Bash"])
    await client.start("s", script(SLEEP, {"say": "done"}), turn_id="main")
    await client.until("s", "tool_use")
    steered = await client.turn("s", "look at the tests too", turn_id="steered", if_busy="steer")
    assert [event["type"] for event in steered] == ["query", "complete"]
    assert steered[-1]["stop_reason"] == "steered"
    complete = await client.until("s", "complete", turn_id="main")
    assert complete["stop_reason"] == "end_turn"
    assert "look at the tests too" in str(server.model.requests[-1].body)
    assert ends(await client.history("s")) == {"main": "end_turn", "steered": "steered"}


async def test_what_the_running_turn_does_not_take_up_runs_next(client: Talk) -> None:
    await client.open(session_id="s")
    await client.start("s", script({"words": 30, "say": "w ", "gap_ms": 50}), turn_id="main")
    await client.until("s", "delta")
    late = await client.turn("s", script({"say": "late"}), turn_id="late", if_busy="steer")
    assert text(late) == "late" and late[-1]["stop_reason"] == "end_turn"
    assert ends(await client.history("s")) == {"main": "end_turn", "late": "end_turn"}


async def test_steering_an_idle_session_is_a_turn_like_any_other(client: Talk) -> None:
    await client.open(session_id="s")
    assert text(await client.turn("s", script({"say": "plain"}), if_busy="steer")) == "plain"


@pytest.mark.parametrize("ending", ["interrupted", "killed"])
async def test_a_message_is_not_lost_when_the_turn_it_was_handed_to_dies(
    server: RunningServer, client: Talk, ending: str
) -> None:
    await client.open(session_id="s")
    await client.start("s", script(SLOW), turn_id="main")
    await client.until("s", "delta")
    await client.start("s", script({"say": "kept"}), turn_id="steered", if_busy="steer")
    if ending == "killed":
        server.kill_agents()
    else:
        assert (await client.http.post("/sessions/s/interrupt")).status_code == 202
    await client.until("s", "complete", turn_id="steered")
    history = await client.history("s")
    assert ends(history)["steered"] == "end_turn"
    assert text(of(history, "steered")) == "kept"


async def test_a_queued_turn_may_be_withdrawn_but_not_a_running_one(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    await client.start("s", script({"words": 30, "say": "w ", "gap_ms": 50}), turn_id="running")
    await client.until("s", "delta")
    await client.start("s", "xylophone", turn_id="queued")
    assert (await client.session("s"))["queued"] == 1
    assert (await client.http.delete("/sessions/s/turns/queued")).status_code == 204
    assert (await client.session("s"))["queued"] == 0
    for turn_id, status, code in (
        ("running", 409, "not_queued"),
        ("queued", 409, "not_queued"),
        ("unknown", 404, "turn_not_found"),
    ):
        answer = await client.http.delete(f"/sessions/s/turns/{turn_id}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    await client.until("s", "complete", turn_id="running")
    history = await client.history("s")
    assert ends(history) == {"running": "end_turn", "queued": "withdrawn"}
    assert [event["type"] for event in of(history, "queued")] == ["query", "complete"]
    assert "xylophone" not in str([call.body for call in server.model.requests])


async def test_model_mode_title_and_metadata_change_without_a_restart(server: RunningServer, client: Talk) -> None:
    session = await client.open(session_id="s")
    await client.turn("s", "hello")
    (before,) = [agent.pid for agent in server.agents() if session["cwd"] == agent.cwd()]
    changes = {"model": "claude-opus-5-5", "permission_mode": "acceptEdits", "title": "t", "metadata": {"a": 1}}
    answer = await client.http.patch("/sessions/s", json=changes)
    assert answer.status_code == 200
    assert changes.items() <= answer.json().items()
    target = Path(session["cwd"]) / "file.txt"
    tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
    await client.turn("s", script({"tool": tool}, {"say": "x"}))
    assert target.read_text() == "x"
    body = server.model.requests[-1].body
    assert body is not None and body["model"] == "claude-opus-5-5"
    assert before in [agent.pid for agent in server.agents()]
    refused = await client.http.patch("/sessions/s", json={"permission_mode": "bypassPermissions"})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    unknown = await client.http.patch("/sessions/s", json={"owner": "me"})
    assert unknown.status_code == 422


async def test_commands_act_only_where_they_are_asked_for(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    await client.turn("s", "My name is Ada.")
    cleared = await client.turn("s", "/clear", commands=True)
    assert cleared[-1]["stop_reason"] == "end_turn"
    await client.turn("s", "Who am I?")
    assert "Ada" not in str(server.model.requests[-1].body)
    server.kill_agents()
    await client.until("s", "notice", name="agent_exited")
    await client.turn("s", "And now?")
    asked = str(server.model.requests[-1].body)
    assert "Who am I?" in asked and "Ada" not in asked  # the conversation since then is the one that goes on


async def test_a_workspaces_settings_act_only_where_the_operator_allows_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "CLAUDE.md").write_text("Remember the word xylophone.")
    roots = {"PORTICO_WORKSPACE_ROOTS": str(root)}
    async with running_server(tmp_path, PORTICO_SETTING_SOURCES="project", **roots) as server, talk(server) as client:
        for name, sources, heard in (("with", ["project"], True), ("without", [], False)):
            await client.open(session_id=name, cwd=str(root), setting_sources=sources)
            await client.turn(name, "hello")
            assert ("xylophone" in str(server.model.requests[-1].body)) is heard
        refused = await client.http.post("/sessions", json={"setting_sources": ["local"]})
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        unknown = await client.http.post("/sessions", json={"setting_sources": ["user"]})
        assert unknown.status_code == 422


async def test_clients_narrow_the_operators_tools_and_never_widen_them(tmp_path: Path) -> None:
    policy = {"PORTICO_ALLOWED_TOOLS": "Read,Bash(echo:*)", "PORTICO_DISALLOWED_TOOLS": "WebFetch,Write"}
    async with running_server(tmp_path, **policy) as server, talk(server) as client:
        for tools in (["Bash"], ["Edit"], ["Read", "Bash(rm:*)"]):
            refused = await client.http.post("/sessions", json={"allowed_tools": tools})
            assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        for rule in ("Read(x),Bash", "Read(x) Bash", "Read,Bash", "Read(x),Bash()", "Read(\\(),Bash", "Read (x),Bash"):
            for name in ("allowed_tools", "disallowed_tools"):
                refused = await client.http.post("/sessions", json={name: ["Read", rule]})
                assert (refused.status_code, refused.json()["code"]) == (422, "invalid"), rule
                assert refused.json()["errors"][0]["loc"] == [name, 1]
        await client.open(session_id="s", allowed_tools=["Read"], disallowed_tools=["Edit"])
        turn = await client.turn("s", "hello")
        assert only(turn, "complete")["stop_reason"] == "end_turn"
        body = server.model.requests[-1].body
        assert body is not None
        offered = {tool["name"] for tool in body["tools"]}
        assert "Read" in offered and not offered & {"WebFetch", "Write", "Edit"}

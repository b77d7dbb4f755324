"""The permission mode of a session, proven on the file system: real server, real CLI, scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.sdk import SDK_DRIVER
from tests.support.server import running_server
from tests.support.talk import Event, Talk, only, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

ALWAYS = {"behavior": "allow", "remember": True}
DENY = {"behavior": "deny"}


def use(name: str, **given: Any) -> dict[str, Any]:
    return {"tool": {"name": name, "input": given}}


def write(folder: str | Path, name: str) -> dict[str, Any]:
    return use("Write", file_path=str(Path(folder) / name), content="x")


async def turn(client: Talk, session_id: str, *steps: dict[str, Any], answer: dict[str, Any]) -> list[Event]:
    """All events of a turn; each request for leave is given this answer."""
    events: list[Event] = []
    body = {"query": script(*steps, {"say": "done"})}
    with anyio.fail_after(HANG_SECONDS):
        async with client.http.stream("POST", f"/stream/{session_id}", json=body) as answers:
            async for each in answers.aiter_lines():
                if each.startswith("data:"):
                    events.append(json.loads(each[5:]))
                    if events[-1]["type"] == "permission_request":
                        await client.answer(session_id, events[-1]["request_id"], **answer)
    assert events[-1]["type"] == "complete"
    return events


def asked(events: list[Event]) -> list[str]:
    return [event["tool_name"] for event in events if event["type"] == "permission_request"]


async def mode(client: Talk, session_id: str = "s") -> str:
    found: str = (await client.session(session_id))["permission_mode"]
    return found


async def set_mode(client: Talk, wanted: str) -> None:
    changed = await client.http.patch("/sessions/s", json={"permission_mode": wanted})
    assert (changed.status_code, changed.json()["permission_mode"]) == (200, wanted)


async def test_the_mode_in_force_is_told_and_another_one_that_is_set_holds(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path, PORTICO_MAX_PROCESSES="1", PORTICO_DRIVER="claude-code,echo") as server,
        talk(server) as client,
    ):
        cwd = (await client.open(session_id="s", permission_mode="plan"))["cwd"]
        events = await turn(client, "s", use("ExitPlanMode"), write(cwd, "a"), answer=ALWAYS)
        assert asked(events) == ["ExitPlanMode", "Write"]
        assert events[[event["type"] for event in events].index("permission_request")]["permission_mode"] == "default"
        assert await mode(client) == "acceptEdits"
        assert asked(await turn(client, "s", write(cwd, "b"), answer=DENY)) == []
        assert Path(cwd, "b").exists()
        # Its process is given up for another session's: what holds is kept.
        await client.open(session_id="other", driver="echo")
        await client.turn("other", "hi")
        assert (await client.session("s"))["state"] == "hibernated" and await mode(client) == "acceptEdits"
        assert asked(await turn(client, "s", write(cwd, "c"), answer=DENY)) == []
        for name, wanted in (("d", "plan"), ("e", "default"), ("f", "plan")):
            await set_mode(client, wanted)
            assert asked(await turn(client, "s", write(cwd, name), answer=DENY)) == ["Write"]
            assert not Path(cwd, name).exists() and await mode(client) == wanted
        # Set while it has no process, too: a resumed conversation would go on in plan mode.
        await client.turn("other", "hi")
        assert (await client.session("s"))["state"] == "hibernated"
        await set_mode(client, "acceptEdits")
        assert asked(await turn(client, "s", write(cwd, "g"), answer=DENY)) == []
        changes = [e for e in await client.history("s") if e["type"] == "session" and "permission_mode" in e]
        assert [(change["permission_mode"], change["reason"]) for change in changes] == [
            *(("default", "agent"), ("acceptEdits", "agent")),
            *(("plan", "changed"), ("default", "changed"), ("plan", "changed"), ("acceptEdits", "changed")),
        ]


async def test_always_leads_to_no_mode_that_is_not_allowed(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_PERMISSION_MODES="default,dontAsk") as server, talk(server) as client:
        cwd = (await client.open(session_id="s"))["cwd"]
        assert asked(await turn(client, "s", write(cwd, "a"), answer=ALWAYS)) == ["Write"]
        notice = only(await client.history("s"), "notice")
        suggested = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
        (left,) = notice["detail"]["suggestions"]
        assert (notice["name"], left) == ("not_remembered", {"id": left["id"], **suggested})
        assert asked(await turn(client, "s", write(cwd, "b"), answer=DENY)) == ["Write"]
        assert Path(cwd, "a").exists() and not Path(cwd, "b").exists()
        # Nor do the agent's own tools: it has none that enters a mode that is not allowed.
        both = {"tool": [use("EnterPlanMode")["tool"], write(cwd, "c")["tool"]]}
        await set_mode(client, "dontAsk")
        assert asked(await turn(client, "s", both, answer=ALWAYS)) == []
        assert not Path(cwd, "c").exists() and await mode(client) == "dontAsk"


async def test_a_plan_is_not_approved_where_that_leads_to_a_mode_that_is_not_allowed(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_PERMISSION_MODES="plan,acceptEdits") as server:
        async with talk(server) as client:
            await client.open(session_id="s", permission_mode="plan")
            await client.start("s", script(use("ExitPlanMode"), {"say": "going"}))
            request = await client.until("s", "permission_request")
            assert request["permission_mode"] == "default"
            refused = await client.answer("s", request["request_id"], behavior="allow")
            assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
            assert (await client.session("s"))["state"] == "waiting"
            assert (await client.answer("s", request["request_id"], **DENY)).status_code == 200
            await client.until("s", "complete")
            assert await mode(client) == "plan"


async def test_a_projects_settings_set_no_mode(tmp_path: Path) -> None:
    project = tmp_path / "roots" / "project"
    (project / ".claude").mkdir(parents=True)
    (project / ".claude" / "settings.json").write_text(json.dumps({"permissions": {"defaultMode": "acceptEdits"}}))
    settings = {
        "PORTICO_WORKSPACE_ROOTS": str(tmp_path / "roots"),
        "PORTICO_SETTING_SOURCES": "project",
        "PORTICO_PERMISSION_MODES": "default,plan",
    }
    async with running_server(tmp_path, **settings) as server, talk(server) as client:
        await client.open(session_id="s", cwd=str(project), setting_sources=["project"])
        assert asked(await turn(client, "s", write(project, "a"), answer=DENY)) == ["Write"]
        assert not (project / "a").exists() and await mode(client) == "default"


@pytest.mark.parametrize(
    "driver",
    [pytest.param({}, id="claude-code"), pytest.param(SDK_DRIVER, id="claude-agent-sdk", marks=pytest.mark.long)],
)
async def test_a_projects_subagent_has_no_mode_that_is_not_allowed(tmp_path: Path, driver: dict[str, str]) -> None:
    project = tmp_path / "roots" / "project"
    (project / ".claude" / "agents").mkdir(parents=True)
    definition = "---\nname: helper\ndescription: helps\npermissionMode: acceptEdits\n---\nYou help.\n"
    (project / ".claude" / "agents" / "helper.md").write_text(definition)
    # Nor does it get there where a project's settings turn hooks off.
    (project / ".claude" / "settings.json").write_text(json.dumps({"disableAllHooks": True}))
    settings = {
        "PORTICO_WORKSPACE_ROOTS": str(tmp_path / "roots"),
        "PORTICO_SETTING_SOURCES": "project",
        "PORTICO_PERMISSION_MODES": "default,plan",
        **driver,
    }
    async with running_server(tmp_path, **settings) as server, talk(server) as client:
        prompts = {"system_prompt": "be brief", "append_system_prompt": "be nice"}  # which hold all the same
        await client.open(session_id="s", cwd=str(project), setting_sources=["project"], **prompts)
        task = script(write(project, "a"), {"say": "ok"})
        helper = use("Agent", subagent_type="helper", description="d", prompt=task, run_in_background=False)
        assert asked(await turn(client, "s", helper, answer=DENY)) == ["Write"]
        assert not (project / "a").exists() and await mode(client) == "default"
        told = [json.dumps(call.body["system"]) for call in server.model.requests if call.body]
        assert any("be brief" in text and "be nice" in text for text in told)


async def test_what_a_rule_forbids_is_not_reached_by_a_changed_input(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_DISALLOWED_TOOLS="Bash(rm:*)") as server, talk(server) as client:
        target = Path((await client.open(session_id="s"))["cwd"]) / "kept"
        target.write_text("kept")
        await client.start("s", script(use("Bash", command="python3 -c 'print(1)'"), {"say": "done"}))
        request = await client.until("s", "permission_request")
        changed = {"behavior": "allow", "updated_input": {"command": f"rm {target}"}}
        refused = await client.answer("s", request["request_id"], **changed)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        assert (await client.session("s"))["state"] == "waiting" and target.exists()
        same = {"behavior": "allow", "updated_input": request["input"]}
        assert (await client.answer("s", request["request_id"], **same)).status_code == 200
        await client.until("s", "complete")
        assert only(await client.history("s"), "tool_result")["content"] == "1" and target.exists()


async def test_what_a_rule_forbids_to_read_is_not_read_by_naming_it_in_a_query(tmp_path: Path) -> None:
    forbidden = {"none": [], "whole": ["Read"], "many": ["Re*"], "content": ["Read(kept)"]}
    async with running_server(tmp_path) as server, talk(server) as client:
        for name, rules in forbidden.items():
            cwd = (await client.open(session_id=name, disallowed_tools=rules))["cwd"]
            Path(cwd, "kept").write_text("what the file says")
            await client.turn(name, "look at @kept", commands=True)
            heard = json.dumps(server.model.requests[-1].body["messages"])
            assert "look at @kept" in heard and ("what the file says" in heard) == (not rules), name

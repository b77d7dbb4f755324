"""A session's model and its permission rules are its agent's, and stay: real server, real CLI, scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_modes import ALWAYS, DENY, asked, turn, use, write
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


def command(text: str) -> dict[str, Any]:
    return use("Bash", command=text)


async def answering_model(server: RunningServer, client: Talk) -> str:
    await client.turn("s", "hi")
    found: str = server.model.requests[-1].body["model"]
    assert (await client.session("s"))["model"] == found
    return found


async def hibernate(client: Talk) -> None:
    """Let another session take the process: the server must have max_processes=1."""
    await client.open(session_id="other")
    await client.turn("other", "hi")
    assert (await client.http.delete("/sessions/other?purge=true")).status_code == 204
    assert (await client.session("s"))["state"] == "hibernated"


async def rules(client: Talk) -> list[Any]:
    """The permission rules, each with its id checked and left out."""
    found = (await client.session("s"))["permission_rules"]
    assert len({rule.pop("id") for rule in found}) == len(found)
    return list(found)


async def revoke(client: Talk, rule_id: str) -> int:
    return (await client.http.delete(f"/sessions/s/permission_rules/{rule_id}")).status_code


async def test_the_model_in_force_is_told_and_another_one_that_is_set_holds(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_MAX_PROCESSES="1") as server, talk(server) as client:
        assert (await client.open(session_id="s"))["model"] is None
        own = await answering_model(server, client)
        # A command changes it: that is seen at once, and survives the end of the process.
        await client.turn("s", "/model haiku", commands=True)
        haiku = (await client.session("s"))["model"]
        assert haiku != own
        assert await answering_model(server, client) == haiku
        await client.turn("s", "/model sonnet", commands=True)
        await hibernate(client)
        sonnet = await answering_model(server, client)
        assert sonnet not in (own, haiku)
        # Null is the agent's own model again, with a process or without.
        await client.http.patch("/sessions/s", json={"model": None})
        assert await answering_model(server, client) == own
        await client.turn("s", "/model haiku", commands=True)
        assert await answering_model(server, client) == haiku  # with which the CLI would resume the conversation
        await hibernate(client)
        await client.http.patch("/sessions/s", json={"model": None})
        assert await answering_model(server, client) == own
        # It can be set to what a command has left, and to what it is.
        await client.turn("s", "/model haiku", commands=True)
        for _ in range(2):
            await client.http.patch("/sessions/s", json={"model": "sonnet"})
            assert await answering_model(server, client) == sonnet
        changes = [e for e in await client.history("s") if e["type"] == "session" and "model" in e]
        assert [(change["model"], change["reason"]) for change in changes] == [
            *((own, "agent"), (haiku, "agent"), (sonnet, "agent"), (None, "changed"), (own, "agent")),
            *((haiku, "agent"), (None, "changed"), (own, "agent"), (haiku, "agent")),
            *(("sonnet", "changed"), (sonnet, "agent"), ("sonnet", "changed"), (sonnet, "agent")),
        ]


async def test_the_model_of_a_projects_settings_is_told(tmp_path: Path) -> None:
    project = tmp_path / "roots" / "project"
    (project / ".claude").mkdir(parents=True)
    (project / ".claude" / "settings.json").write_text(json.dumps({"model": "haiku"}))
    places = {"PORTICO_WORKSPACE_ROOTS": str(tmp_path / "roots"), "PORTICO_SETTING_SOURCES": "project"}
    async with running_server(tmp_path, **places) as server, talk(server) as client:
        await client.open(session_id="s", cwd=str(project), setting_sources=["project"])
        assert "haiku" in await answering_model(server, client)
        server.kill_agents()  # a new process has it too
        await client.until("s", "notice", name="agent_exited")
        assert "haiku" in await answering_model(server, client)
        await client.http.patch("/sessions/s", json={"model": "sonnet"})
        assert "sonnet" in await answering_model(server, client)


async def test_the_model_of_a_projects_command_is_that_of_its_turn(tmp_path: Path) -> None:
    commands = tmp_path / "roots" / "project" / ".claude" / "commands"
    commands.mkdir(parents=True)
    (commands / "small.md").write_text("---\nmodel: claude-haiku-5-5\n---\nhi\n")
    places = {"PORTICO_WORKSPACE_ROOTS": str(tmp_path / "roots"), "PORTICO_SETTING_SOURCES": "project"}
    async with running_server(tmp_path, PORTICO_MAX_PROCESSES="1", **places) as server, talk(server) as client:
        for first in (True, False):  # also in the first turn of a process
            await client.open(session_id="s", cwd=str(commands.parents[1]), setting_sources=["project"])
            if not first:
                await client.turn("s", "hi")
            await client.turn("s", "/small", commands=True)
            assert server.model.requests[-1].body["model"] == "claude-haiku-5-5"
            own = (await client.session("s"))["model"]
            await hibernate(client)
            assert await answering_model(server, client) == own != "claude-haiku-5-5"
            await client.http.delete("/sessions/s?purge=true")


async def test_what_was_allowed_stays_allowed_until_it_is_taken_back(tmp_path: Path) -> None:
    run = command("python3 -c 'print(\"a, b\\\\n\"); (1)'")
    async with running_server(tmp_path, PORTICO_MAX_PROCESSES="1") as server, talk(server) as client:
        await client.open(session_id="s")
        events = await turn(client, "s", run, use("Read", file_path="/etc/hosts"), answer=ALWAYS)
        assert asked(events) == ["Bash", "Read"]
        suggested = [e["suggestions"][0] for e in events if e["type"] == "permission_request"]
        found = (await client.session("s"))["permission_rules"]
        assert [rule["id"] for rule in found] == [each["id"] for each in suggested]
        assert [rule["rules"] for rule in found] == [each["rules"] for each in suggested]
        both = run, use("Read", file_path="/etc/hosts")
        assert asked(await turn(client, "s", *both, answer=DENY)) == []
        await hibernate(client)
        assert asked(await turn(client, "s", *both, answer=DENY)) == []
        # Taken back, it is asked again, in the same process ...
        assert await revoke(client, found[0]["id"]) == 204
        assert asked(await turn(client, "s", *both, answer=DENY)) == ["Bash"]
        # ... and in a new one.
        await hibernate(client)
        assert await revoke(client, found[1]["id"]) == 204
        assert asked(await turn(client, "s", *both, answer=DENY)) == ["Bash", "Read"]
        assert await rules(client) == []
        assert await revoke(client, found[0]["id"]) == 404
        changes = [e for e in await client.history("s") if e["type"] == "session" and "permission_rules" in e]
        assert [(len(change["permission_rules"]), change["reason"]) for change in changes] == [
            *((1, "answered"), (2, "answered"), (1, "changed"), (0, "changed")),
        ]


async def test_an_answer_remembers_those_suggestions_that_it_names(tmp_path: Path) -> None:
    root = tmp_path / "roots"
    for name in ("project", "beside"):
        (root / name).mkdir(parents=True)
    settings = {"PORTICO_WORKSPACE_ROOTS": str(root), "PORTICO_MAX_PROCESSES": "1", "PORTICO_SANDBOX": "none"}
    async with running_server(tmp_path, **settings) as server, talk(server) as client:
        await client.open(session_id="s", cwd=str(root / "project"))
        await client.start("s", script(write(root / "beside", "a"), {"say": "done"}))
        request = await client.until("s", "permission_request")
        ids = {each["type"]: each["id"] for each in request["suggestions"]}
        assert set(ids) == {"setMode", "addDirectories"}
        allow = {"behavior": "allow"}
        unknown = await client.answer("s", request["request_id"], **allow, remember=[ids["setMode"], "nothing"])
        assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_suggestion")
        assert (await client.session("s"))["state"] == "waiting"
        named = await client.answer("s", request["request_id"], **allow, remember=[ids["addDirectories"]])
        assert named.status_code == 200
        await client.until("s", "complete")
        assert (await client.session("s"))["permission_mode"] == "default"
        assert await rules(client) == [{"type": "addDirectories", "directories": [str(root / "beside")]}]
        for _ in range(2):  # what lies there is read, but not changed
            reads = use("Read", file_path=str(root / "beside" / "a")), write(root / "beside", "a")
            assert asked(await turn(client, "s", *reads, answer=DENY)) == ["Write"]
            await hibernate(client)
        # All of it: also the mode.
        await turn(client, "s", write(root / "beside", "b"), answer=ALWAYS)
        assert (await client.session("s"))["permission_mode"] == "acceptEdits"
        assert asked(await turn(client, "s", write(root / "beside", "c"), answer=DENY)) == []


async def test_what_the_operator_no_longer_allows_is_dropped_and_that_is_told(tmp_path: Path) -> None:
    data = {"PORTICO_DATA_DIR": str(tmp_path / "data")}
    allowed = {**data, "PORTICO_ALLOWED_TOOLS": "Glob,Bash(python3 a.py)"}
    both = command("python3 a.py"), command("python3 b.py")
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    async with running_server(tmp_path / "first", **data) as server, talk(server) as client:
        await client.open(session_id="s")
        assert asked(await turn(client, "s", *both, answer=ALWAYS)) == ["Bash", "Bash"]
    async with running_server(tmp_path / "second", **data) as server, talk(server) as client:
        assert asked(await turn(client, "s", *both, answer=DENY)) == []
    async with running_server(tmp_path / "third", **allowed) as server, talk(server) as client:
        events = await turn(client, "s", *both, answer=DENY)
        assert asked(events) == ["Bash"]
        dropped = only(events, "notice")
        assert dropped["name"] == "not_remembered"
        assert [each["rules"][0]["ruleContent"] for each in dropped["detail"]["suggestions"]] == ["python3 b.py"]
        assert [rule["rules"][0]["ruleContent"] for rule in await rules(client)] == ["python3 a.py"]

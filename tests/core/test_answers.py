"""An answer to a permission request does no more than the operator allows, whatever driver is behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import Decision
from portico.core.errors import Conflict, NotAllowed
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn
from portico.testing.engine import scripted_engine
from portico.testing.scripted import Ask, ScriptedDriver, turn
from tests.support.limits import HANG_SECONDS

ADA = Principal("ada")
ALLOW = Decision("allow")
ALWAYS = Decision("allow", remember=True)

pytestmark = pytest.mark.anyio


async def answered(
    folder: Path, ask: Ask, decision: Decision, *, session: NewSession | None = None, **policy: Any
) -> tuple[Decision, list[dict[str, Any]]]:
    """Return the agent's decision, and the notices. Raises as the answer does; the request then still waits."""
    driver = ScriptedDriver([turn(ask)])
    async with scripted_engine(folder, driver=driver, **policy) as engine:
        await engine.create(ADA, session or NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("go"))
        with anyio.fail_after(HANG_SECONDS):
            while not (await engine.session(ADA, "s"))["pending_permissions"]:
                await anyio.sleep(0.005)
        try:
            await engine.answer(ADA, "s", ask.request_id, decision)
        except NotAllowed:
            assert (await engine.session(ADA, "s"))["state"] == "waiting"
            assert [each["request_id"] for each in (await engine.session(ADA, "s"))["pending_permissions"]] == [
                ask.request_id
            ]
            assert driver.agents[0].decisions == []
            await engine.answer(ADA, "s", ask.request_id, Decision("deny"))
            raise
        with pytest.raises(Conflict):
            await engine.answer(ADA, "s", ask.request_id, decision)
        with anyio.fail_after(HANG_SECONDS):
            while not driver.agents[0].decisions:
                await anyio.sleep(0.005)
        events, _ = await engine.history(ADA, "s", after=0, limit=100)
        found = [json.loads(event.data) for event in events]
        return driver.agents[0].decisions[0][1], [event for event in found if event["type"] == "notice"]


def command(text: str) -> dict[str, Any]:
    return {"command": text}


RULES = [
    ("Bash(rm:*)", "Bash"),
    ("Bash(rm:*)", "Monitor"),
    ("Edit(//secret/**)", "Write"),
    ("Edit(//secret/**)", "NotebookEdit"),
    ("Edit(//secret/**)", "Bash"),
    ("Read(//secret/**)", "Read"),
    ("Read(//secret/**)", "Grep"),
    ("Read(//secret/**)", "Bash"),
    ("Write(//secret/**)", "Edit"),
    ("Task(explore)", "Agent"),
    ("WebFetch(domain:evil.example)", "WebFetch"),
    ("mcp__a__b(x)", "mcp__a__b"),
    ("mcp__a(x)", "mcp__a__b"),
    ("mcp__a__*", "mcp__a__b"),
    ("Write", "Write"),
]


@pytest.mark.parametrize(("rule", "tool"), RULES)
async def test_where_there_are_rules_about_a_tool_its_input_is_not_changed(
    tmp_path: Path, rule: str, tool: str
) -> None:
    ask = Ask(tool, command("ls"))
    session = NewSession(session_id="s", disallowed_tools=(rule,))
    for name, options in (("operators", {"disallowed_tools": (rule,)}), ("clients", {"session": session})):
        for changed in (command("rm x"), {}, {**command("ls"), "more": 1}):
            with pytest.raises(NotAllowed):
                await answered(tmp_path / name, ask, Decision("allow", updated_input=changed), **options)
        same, _ = await answered(tmp_path / name, ask, Decision("allow", updated_input=command("ls")), **options)
        assert same == ALLOW


@pytest.mark.parametrize(
    ("rule", "tool"),
    [
        ("Bash(rm:*)", "AskUserQuestion"),
        ("Bash(rm:*)", "Write"),
        ("Bash(rm:*)", "mcp__a__b"),
        ("Read(//secret/**)", "AskUserQuestion"),
        ("Read(//secret/**)", "WebFetch"),
        ("Read(//secret/**)", "Agent"),
        ("mcp__a", "mcp__ab__c"),
        ("Write", "Edit"),
        ("Write", "Bash"),
    ],
)
async def test_the_input_of_other_tools_may_be_changed(tmp_path: Path, rule: str, tool: str) -> None:
    changed = Decision("allow", updated_input={"answers": {"a": "b"}})
    assert await answered(tmp_path, Ask(tool, {}), changed, disallowed_tools=(rule,)) == (changed, [])


async def test_leave_that_leads_to_a_mode_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    ask = Ask("ExitPlanMode", more={"permission_mode": "default"})
    assert await answered(tmp_path / "allowed", ask, ALLOW) == (ALLOW, [])
    with pytest.raises(NotAllowed):
        await answered(tmp_path / "not", ask, ALLOW, permission_modes=("plan", "dontAsk"))
    denied = Decision("deny", message="no")
    assert await answered(tmp_path / "denied", ask, denied, permission_modes=("plan", "dontAsk")) == (denied, [])


def mode(name: str) -> dict[str, Any]:
    return {"type": "setMode", "mode": name, "destination": "session"}


def rules(*texts: str, behavior: str = "allow") -> dict[str, Any]:
    parts = [text.rstrip(")").split("(") for text in texts]
    made = [{"toolName": part[0], **({"ruleContent": part[1]} if part[1:] else {})} for part in parts]
    return {"type": "addRules", "behavior": behavior, "rules": made, "destination": "localSettings"}


def folders(*names: str) -> dict[str, Any]:
    return {"type": "addDirectories", "directories": list(names), "destination": "session"}


def without_ids(suggestions: list[Any]) -> list[Any]:
    return [{name: value for name, value in each.items() if name != "id"} for each in suggestions]


MODES: Mapping[str, Any] = {"permission_modes": ("default", "plan")}
TOOLS: Mapping[str, Any] = {"allowed_tools": ("Read", "Bash(ls:*)")}


@pytest.mark.parametrize(
    ("suggestions", "policy"),
    [
        ([mode("acceptEdits")], {}),
        ([mode("plan")], MODES),
        ([folders(), mode("acceptEdits")], {}),  # all of it
        ([rules("Bash(ls:*)", "Read(//tmp/**)")], TOOLS),
        ([rules("Bash(anything)", behavior="deny")], TOOLS),
    ],
)
async def test_what_is_allowed_is_remembered(tmp_path: Path, suggestions: list[Any], policy: Mapping[str, Any]) -> None:
    ask = Ask("Bash", more={"suggestions": suggestions})
    decision, notices = await answered(tmp_path, ask, ALWAYS, **policy)
    assert decision == replace(ALWAYS, remembered=tuple(suggestions)) and not notices


@pytest.mark.parametrize(
    ("suggestions", "policy"),
    [
        ([mode("acceptEdits")], MODES),
        ([mode("bypassPermissions")], {}),
        ([mode("auto")], {}),
        ([rules("Bash")], TOOLS),
        ([rules("Bash(rm:*)")], TOOLS),
        ([rules("Read", "Bash(rm:*)")], TOOLS),
        ([rules("Edit(//tmp/**)")], {"allowed_tools": ("Edit",)}),
        ([rules("Write"), mode("acceptEdits")], {**TOOLS, **MODES}),
        ([folders("/etc")], {}),
        ([folders("relative")], {}),
        ([folders(*["/etc"] * 33)], {}),
        ([{"type": "replaceRules", "behavior": "allow", "rules": []}], {}),
        ([{"type": "setMode", "mode": None}], {}),
        ([{"type": "addRules", "behavior": "allow", "rules": [{"toolName": 1}]}], TOOLS),
        ([{"type": "addRules", "behavior": "allow", "rules": "Bash"}], TOOLS),
    ],
)
async def test_what_is_not_allowed_is_not_remembered_and_that_is_told(
    tmp_path: Path, suggestions: list[Any], policy: Mapping[str, Any]
) -> None:
    ask = Ask("Bash", more={"suggestions": suggestions})
    decision, (notice,) = await answered(tmp_path, ask, ALWAYS, **policy)
    assert decision == ALLOW  # nothing that a driver could remember
    assert notice["name"] == "not_remembered"
    assert notice["detail"]["request_id"] == ask.request_id
    assert without_ids(notice["detail"]["suggestions"]) == suggestions


async def test_of_several_suggestions_those_are_remembered_that_are_allowed(tmp_path: Path) -> None:
    good, bad = rules("Bash(ls:*)"), rules("Bash(rm:*)")
    ask = Ask("Bash", more={"suggestions": [bad, good]})
    decision, (notice,) = await answered(tmp_path, ask, ALWAYS, **TOOLS)
    # A driver that knows only `remember` remembers nothing.
    assert decision == Decision("allow", remembered=(good,))
    assert without_ids(notice["detail"]["suggestions"]) == [bad]


async def test_where_an_agent_suggests_nothing_it_is_its_tool_that_is_remembered(tmp_path: Path) -> None:
    asks = {
        "none": Ask("Write"),
        "empty": Ask("Write", more={"suggestions": []}),
        "strange": Ask("Write", more={"suggestions": ["Write", None]}),
    }
    for name, ask in asks.items():
        assert await answered(tmp_path / f"{name}-any", ask, ALWAYS) == (ALWAYS, [])
        assert await answered(tmp_path / f"{name}-its", ask, ALWAYS, allowed_tools=("Write",)) == (ALWAYS, [])
        decision, (notice,) = await answered(tmp_path / f"{name}-other", ask, ALWAYS, **TOOLS)
        assert decision == ALLOW and notice["name"] == "not_remembered"


async def test_folders_are_remembered_in_which_the_session_could_work(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "project").mkdir(parents=True)
    (root / "other").mkdir()
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "way").symlink_to(root / "other")
    session = NewSession(session_id="s", cwd=str(root / "project"))
    places: Mapping[str, Any] = {"workspace_roots": (root,), "session": session}
    for count, (name, expected) in enumerate(
        {
            str(root / "other"): str(root / "other"),
            str(root / "way"): str(root / "other"),  # as it is now, whoever changes the link
            str(root / "project" / "new"): str(root / "project" / "new"),
            str(root / "link"): None,
            str(tmp_path / "outside"): None,
            str(root / "project" / ".." / ".." / "outside"): None,
            str(root / "none"): None,
        }.items()
    ):
        ask = Ask("Write", more={"suggestions": [folders(name)]})
        decision, notices = await answered(tmp_path / f"data-{count}", ask, ALWAYS, **places)
        remembered = () if expected is None else (folders(expected),)
        assert (decision.remembered, decision.remember) == (remembered, expected is not None), name
        assert bool(notices) == (expected is None)


async def test_who_comes_with_a_ticket_has_nothing_remembered(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(Ask("Write", request_id="r"))])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("go"))
        with anyio.fail_after(HANG_SECONDS):
            while not (await engine.session(ADA, "s"))["pending_permissions"]:
                await anyio.sleep(0.005)
        holder = replace(ADA, by_ticket=True)
        with pytest.raises(NotAllowed):
            await engine.answer(holder, "s", "r", ALWAYS)
        await engine.answer(holder, "s", "r", ALLOW)

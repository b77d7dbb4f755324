"""Questions wait for a person, however long the turn and the permission to use a tool may take."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import Decision
from portico.core.engine import Engine
from portico.core.errors import InvalidRequest, NotAllowed
from portico.core.events import PermissionRequest, ToolUse
from portico.core.principal import Principal
from portico.core.questions import MAX_MISTAKES, fitting, with_answers
from portico.core.requests import NewSession, NewTurn
from portico.testing.engine import scripted_engine
from portico.testing.scripted import Ask, Gate, ScriptedDriver, turn
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

ADA = Principal("ada")
WHY = {"question": "Why?", "options": [{"label": "so"}], "multi_select": False}


def asking(**members: Any) -> PermissionRequest:
    request = PermissionRequest(type="permission_request", request_id="r", tool_name="x", input={})
    return {**request, **members}  # type: ignore[typeddict-item]


FIELDS = {f"f{n}": {"type": "integer"} for n in range(100)}


@pytest.mark.parametrize(
    ("schema", "content", "mistakes"),
    [
        ({"type": "object", "properties": FIELDS}, dict.fromkeys(FIELDS, "x"), MAX_MISTAKES),
        ({"properties": {"a": {"type": "string", "format": "email"}}}, {"a": "nobody"}, 1),
        ({"type": "nonsense"}, {"a": 1}, 0),
        ({"$ref": "http://127.0.0.1:1/schema"}, {"a": 1}, 0),
        ({"$ref": "#"}, {"a": 1}, 0),
        ({"properties": {"a": {"pattern": "("}}}, {"a": "b"}, 0),
    ],
)
async def test_data_are_checked_as_far_as_the_schema_is_one(
    schema: dict[str, Any], content: dict[str, Any], mistakes: int
) -> None:
    request, decision = asking(kind="elicitation", schema=schema), Decision("allow", content=content)
    if not mistakes:
        assert (await fitting(decision, request)).content == content
        return
    with pytest.raises(InvalidRequest) as caught:
        await fitting(decision, request)
    assert len(caught.value.extra["errors"]) == mistakes


async def test_answers_in_the_input_count_as_answers() -> None:
    question = {"question": "Why?", "options": [], "multi_select": True}
    request = asking(kind="question", questions=[question], input={"questions": ["raw"]})
    old = Decision("allow", updated_input={"questions": ["raw"], "answers": {"Why?": ["a", "b", "a"]}})
    decision = await fitting(old, request)
    assert decision.updated_input == request["input"]
    told = with_answers(decision, request).updated_input
    assert told == {"questions": ["raw"], "answers": {"Why?": "a, b"}}


async def test_the_time_of_a_turn_stands_still_while_its_question_waits_and_then_goes_on(tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver([turn(Ask("x", more={"kind": "question", "questions": [WHY]}, request_id="r"), gate)])
    async with scripted_engine(tmp_path, driver=driver, turn_timeout=0.3, permission_timeout=0.1) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        with anyio.fail_after(HANG_SECONDS):
            while not (await engine.session(ADA, "s"))["pending_permissions"]:
                await anyio.sleep(0.01)
            await anyio.sleep(0.6)  # twice as long as the turn may take
            await engine.answer(ADA, "s", "r", Decision("allow", answers={"Why?": "so"}))
            await gate.reached.wait()
            while (await engine.session(ADA, "s"))["state"] != "idle":
                await anyio.sleep(0.01)
        events, _ = await engine.history(ADA, "s", after=0, limit=100)
        assert b'"stop_reason":"timeout"' in next(event for event in events if event.type == "complete").data
        ((_, decision),) = driver.agents[0].decisions
        assert decision.updated_input == {"answers": {"Why?": "so"}}


USED = ToolUse(type="tool_use", tool_use_id="u", tool_name="x", input={})
ASKED = Ask("x", request_id="r", more={"kind": "question", "questions": [WHY], "tool_use_id": "u"})


@asynccontextmanager
async def two_sessions(tmp_path: Path, driver: ScriptedDriver) -> AsyncIterator[Engine]:
    """An engine with one process, and the sessions ``s``, which asks, and ``other``."""
    async with scripted_engine(tmp_path, driver=driver, max_processes=1, process_wait=HANG_SECONDS) as engine:
        for name in ("s", "other"):
            await engine.create(ADA, NewSession(session_id=name))
        with anyio.fail_after(HANG_SECONDS):
            await engine.query(ADA, "s", NewTurn("hello", "one"))
            while not (await engine.session(ADA, "s"))["pending_permissions"]:
                await anyio.sleep(0.01)
            yield engine


async def end_of(engine: Engine, session_id: str) -> dict[str, Any]:
    with anyio.fail_after(HANG_SECONDS):
        while True:
            events, _ = await engine.history(ADA, session_id, after=0, limit=1000)
            if found := [event for event in events if event.type == "complete"]:
                complete: dict[str, Any] = json.loads(found[0].data)
                return complete
            await anyio.sleep(0.01)


async def test_a_question_gives_its_process_up_and_its_answer_brings_the_turn_back(tmp_path: Path) -> None:
    driver = ScriptedDriver([[USED, ASKED], turn(output_tokens=2), turn(output_tokens=4)])
    async with two_sessions(tmp_path, driver) as engine:
        await engine.query(ADA, "other", NewTurn("hello", "two"))
        assert (await end_of(engine, "other"))["stop_reason"] == "end_turn"
        waiting = await engine.session(ADA, "s")
        assert waiting["state"] == "waiting" and waiting["pending_permissions"]
        events, _ = await engine.history(ADA, "s", after=0, limit=1000)
        assert b'"reason":"process_given_up"' in events[-1].data
        await engine.answer(ADA, "s", "r", Decision("allow", answers={"Why?": "so"}))
        complete = await end_of(engine, "s")
        assert (complete["stop_reason"], complete["usage"]) == ("end_turn", {"output_tokens": 5})
        assert complete["cost_usd"] == 1.0
        (late,) = driver.agents[-1].late
        assert (late.turn_id, late.decision.answers) == ("one", {"Why?": "so"})
        assert driver.agents[-1].spec.agent_id == driver.agents[0].spec.agent_id


async def test_a_question_without_a_process_can_be_interrupted(tmp_path: Path) -> None:
    driver = ScriptedDriver([[USED, ASKED], turn(), turn()])
    async with two_sessions(tmp_path, driver) as engine:
        await engine.query(ADA, "other", NewTurn("hello", "two"))
        await end_of(engine, "other")
        await engine.interrupt(ADA, "s")
        assert (await end_of(engine, "s"))["stop_reason"] == "interrupted"
        assert len(driver.agents) == 2
        await engine.query(ADA, "s", NewTurn("go on", "three"))
        with anyio.fail_after(HANG_SECONDS):
            while (await engine.session(ADA, "s"))["turns"] != 2 or (await engine.session(ADA, "s"))["state"] != "idle":
                await anyio.sleep(0.01)


@pytest.mark.parametrize(
    "steps",
    [
        [ASKED],  # a tool that it has begun is not known
        [USED, ToolUse(type="tool_use", tool_use_id="v", tool_name="y", input={}), ASKED],
        [USED, Ask("x", request_id="r", more={"tool_use_id": "u"})],
        [USED, Ask("x", request_id="r", more={"kind": "elicitation", "schema": {}, "tool_use_id": "u"})],
    ],
)
async def test_a_process_that_does_more_than_ask_is_kept(tmp_path: Path, steps: list[Any]) -> None:
    driver = ScriptedDriver([[*steps, *turn()], turn()])
    async with two_sessions(tmp_path, driver) as engine:
        await engine.query(ADA, "other", NewTurn("hello", "two"))
        await anyio.wait_all_tasks_blocked()
        assert (await engine.session(ADA, "other"))["state"] == "starting" and not driver.agents[0].closes
        request = steps[-1]
        answers = {"Why?": "so"} if request.more.get("kind") == "question" else None
        await engine.answer(ADA, "s", "r", Decision("allow", answers=answers))
        await end_of(engine, "other")


async def test_who_comes_with_a_ticket_chooses_no_mode(tmp_path: Path) -> None:
    plan = Ask("x", request_id="r", more={"kind": "plan", "plan": "", "permission_mode": "default"})
    async with scripted_engine(tmp_path, driver=ScriptedDriver([turn(plan)])) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        with anyio.fail_after(HANG_SECONDS):
            while not (await engine.session(ADA, "s"))["pending_permissions"]:
                await anyio.sleep(0.01)
        visitor = replace(ADA, by_ticket=True)
        with pytest.raises(NotAllowed):
            await engine.answer(visitor, "s", "r", Decision("allow", permission_mode="acceptEdits"))
        await engine.answer(visitor, "s", "r", Decision("allow"))

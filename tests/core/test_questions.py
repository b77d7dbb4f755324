"""Questions wait for a person, however long the turn and the permission to use a tool may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import Decision
from portico.core.errors import InvalidRequest
from portico.core.events import PermissionRequest
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

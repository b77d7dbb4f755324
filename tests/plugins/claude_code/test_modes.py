"""The permission mode of the CLI: its reports, the mode after a plan, and what is remembered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from portico.core.agent import Decision
from portico.plugins.claude_code.items import Item, Send
from portico.plugins.claude_code.protocol import Protocol

Json = dict[str, Any]


def line(**members: Any) -> bytes:
    return json.dumps(members).encode()


def status(mode: str) -> bytes:
    return line(type="system", subtype="status", status=None, permissionMode=mode)


def init(mode: str = "default", **more: Any) -> bytes:
    return line(type="system", subtype="init", session_id="c", permissionMode=mode, user_message_uuids=["u"], **more)


def told(items: list[Item]) -> list[str]:
    return [item["permission_mode"] for item in items if isinstance(item, dict) and item["type"] == "permission_mode"]


def models(items: list[Item]) -> list[str]:
    return [item["model"] for item in items if isinstance(item, dict) and item["type"] == "model"]


def began(mode: str) -> Protocol:
    protocol = Protocol("c", mode)
    protocol.begin("u", "x")
    protocol.receive(init(mode))
    return protocol


def ask(protocol: Protocol, tool: str, *suggestions: Json) -> Json:
    request = {"subtype": "can_use_tool", "tool_name": tool, "input": {}, "permission_suggestions": suggestions}
    (event,) = protocol.receive(line(type="control_request", request_id="r", request=request))
    assert isinstance(event, dict)
    return dict(event)


def updates(protocol: Protocol, request: Json, decision: Decision) -> list[Json] | None:
    (reply,) = protocol.answer(request["request_id"], decision, rules=False)
    assert isinstance(reply, Send)
    found: list[Json] | None = json.loads(reply.line)["response"]["response"].get("updatedPermissions")
    return found


def test_each_change_of_the_mode_is_told_and_nothing_else() -> None:
    protocol = Protocol("c", "default")
    protocol.begin("u", "x")
    assert told(protocol.receive(init("default"))) == []
    assert told(protocol.receive(line(type="system", subtype="status", status="requesting"))) == []
    assert told(protocol.receive(status("plan"))) == ["plan"]
    assert told(protocol.receive(status("plan"))) == []
    assert told(protocol.receive(status("manual"))) == ["default"]
    assert told(protocol.receive(init("acceptEdits"))) == ["acceptEdits"]  # of a project's settings
    assert told(protocol.receive(line(type="system", subtype="status", permissionMode=7))) == []


def test_what_was_told_to_nobody_is_told_again() -> None:
    protocol = began("default")
    protocol.receive(status("acceptEdits"))
    protocol.forget_told()
    assert told(protocol.receive(init("acceptEdits"))) == ["acceptEdits"]
    assert told(protocol.receive(init("acceptEdits"))) == []


@pytest.mark.parametrize(
    ("started", "modes", "expected"),
    [
        ("plan", [], "default"),
        ("default", ["plan"], "default"),
        ("acceptEdits", ["plan"], "acceptEdits"),
        ("default", ["acceptEdits", "plan"], "acceptEdits"),
        ("plan", ["default", "dontAsk", "plan", "plan"], "dontAsk"),
    ],
)
def test_leave_to_do_what_was_planned_leads_back_to_the_mode_before(
    started: str, modes: list[str], expected: str
) -> None:
    protocol = began(started)
    for mode in modes:
        protocol.receive(status(mode))
    request = ask(protocol, "ExitPlanMode")
    assert request["permission_mode"] == expected
    # It is also said, so that it is so whatever the CLI would do by itself.
    assert updates(protocol, request, Decision("allow")) == [
        {"type": "setMode", "mode": expected, "destination": "session"}
    ]
    assert "permission_mode" not in ask(protocol, "Write")


def test_denied_nothing_changes() -> None:
    protocol = began("plan")
    assert updates(protocol, ask(protocol, "ExitPlanMode"), Decision("deny")) is None


def test_of_what_is_suggested_that_is_remembered_which_the_decision_names() -> None:
    mode = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    rule = {"type": "addRules", "behavior": "allow", "rules": [{"toolName": "B"}], "destination": "localSettings"}
    for decision, modes, rules in (
        (Decision("allow"), None, []),
        (Decision("allow", remembered=(rule,)), None, [rule]),
        (Decision("allow", remembered=(mode,)), [mode], []),
        (Decision("allow", remember=True, remembered=(mode, rule)), [mode], [rule]),
        (Decision("allow", remember=True), [mode], [rule]),
    ):
        protocol = began("default")
        request = ask(protocol, "B", mode, rule)
        assert protocol.remembered(request["request_id"], decision) == rules
        assert updates(protocol, request, decision) == modes


def test_each_change_of_the_model_is_told_and_nothing_else() -> None:
    protocol = Protocol("c", model="haiku")
    protocol.begin("u", "x")
    assert models(protocol.receive(init(model="claude-haiku-5-5"))) == ["claude-haiku-5-5"]
    assert models(protocol.receive(init(model="claude-haiku-5-5"))) == []
    assert models(protocol.receive(init(model=7))) == [] == models(protocol.receive(init(model="")))
    assert models(protocol.receive(status("plan"))) == []
    assert models(protocol.receive(init(model="claude-opus-5-5"))) == ["claude-opus-5-5"]
    protocol.forget_told()
    assert models(protocol.receive(init(model="claude-opus-5-5"))) == ["claude-opus-5-5"]
    protocol.set_model(None)
    assert protocol.model is None
    assert models(protocol.receive(init(model="claude-opus-5-5"))) == ["claude-opus-5-5"]


def test_a_turn_that_reports_no_other_model_asks_for_none_at_its_end() -> None:
    protocol = Protocol("c", model="a")
    protocol.begin("u", "x")
    protocol.receive(init(model="a"))
    protocol.receive(status("default"))
    assert protocol.model_settled()
    protocol.receive(init(model="b"))
    assert not protocol.model_settled()


def test_a_name_that_stands_for_several_models_stays_until_another_one_is_chosen() -> None:
    protocol = Protocol("c", model="opusplan")
    protocol.begin("u", "x")
    assert models(protocol.receive(init(model="claude-sonnet-5-5"))) == []
    assert protocol.model == "opusplan"
    assert models(protocol.receive(init(model="claude-haiku-5-5"))) == ["claude-haiku-5-5"]


@pytest.mark.parametrize(
    ("more", "told_at_once"),
    [
        ({"subtype": "model_fallback", "trigger": "overloaded"}, ["b"]),
        ({"subtype": "model_refusal_fallback", "direction": "sticky", "scope": "session"}, ["b"]),
        ({"subtype": "model_refusal_fallback", "direction": "retry"}, ["b"]),
        ({"subtype": "model_refusal_fallback", "direction": "revert", "scope": "session"}, []),
    ],
)
def test_a_fallback_is_believed_and_looked_up_at_the_turns_end(more: Json, told_at_once: list[str]) -> None:
    protocol = Protocol("c", model="a")
    protocol.begin("u", "x")
    protocol.receive(init(model="a"))
    assert protocol.model_settled()
    fallback = line(type="system", original_model="a", fallback_model="b", **more)
    assert models(protocol.receive(fallback)) == told_at_once
    assert not protocol.model_settled() and protocol.model_settled()
    assert models(list(protocol.model_found({"applied": {"model": "c"}}))) == ["c"]
    assert list(protocol.model_found({"applied": {"model": "c"}})) == [] == list(protocol.model_found({"applied": 1}))


def test_the_fallback_of_a_subagent_is_not_the_sessions() -> None:
    protocol = Protocol("c", model="a")
    protocol.begin("u", "x")
    protocol.receive(init(model="a"))
    more = {"subtype": "model_refusal_fallback", "direction": "retry", "scope": "local"}
    assert models(protocol.receive(line(type="system", original_model="a", fallback_model="b", **more))) == []
    assert protocol.model_settled() and protocol.model == "a"

"""The protocol on lines that the real CLI has said, and on such as it might say one day."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from portico.core.agent import Decision, OwnTurn
from portico.core.errors import Conflict, InvalidRequest
from portico.plugins.claude_code.framer import Oversized
from portico.plugins.claude_code.items import Answered, Done, Item, Moved, Refused, Send, Taken
from portico.plugins.claude_code.lines import MAX_DEPTH
from portico.plugins.claude_code.protocol import Protocol

RECORDINGS = Path(__file__).parent / "recordings"
Json = dict[str, Any]


def recorded(name: str) -> list[bytes]:
    return (RECORDINGS / f"{name}.jsonl").read_bytes().splitlines()


def replay(name: str, protocol: Protocol | None = None, *, follow: Sequence[str] = ()) -> list[Item]:
    """All items of a recording. Its messages are ours, one after another, or only those of the uuids in ``follow``."""
    protocol = protocol or new_protocol()
    items: list[Item] = []
    for line in recorded(name):
        message = json.loads(line)
        queued = message["type"] == "command_lifecycle" and message["state"] == "queued"
        if queued and (message["command_uuid"] in follow if follow else not protocol.busy):
            protocol.begin(message["command_uuid"], "x")
        items += protocol.receive(line)
    assert protocol.ignored == 0
    return items


def new_protocol() -> Protocol:
    """Of a process whose conversation is the one that the recordings were made in, or any."""
    return Protocol("c")


def events(items: list[Item], *types: str) -> list[Json]:
    return [dict(i) for i in items if isinstance(i, dict) and (not types or i["type"] in types)]


def done(items: list[Item]) -> list[Done]:
    return [i for i in items if isinstance(i, Done)]


def outcome(name: str) -> list[str]:
    return [d.complete["stop_reason"] for d in done(replay(name))]


def line(**members: Any) -> bytes:
    return json.dumps(members).encode()


def uuids(name: str) -> list[str]:
    messages = map(json.loads, recorded(name))
    return [m["command_uuid"] for m in messages if m["type"] == "command_lifecycle" and m["state"] == "queued"]


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_every_recording_ends_each_turn_once_and_shows_nothing_synthetic(path: Path) -> None:
    items = replay(path.stem)
    results = sum(json.loads(one)["type"] == "result" for one in recorded(path.stem))
    assert len(done(items)) == (0 if path.stem == "unknown_resume" else results)
    shown = json.dumps(events(items, "delta", "message"))
    for synthetic in ("[Request interrupted", "Output token limit hit", "API Error", "continued from a previous"):
        assert synthetic not in shown


def test_deltas_and_finished_blocks_have_the_same_address() -> None:
    items = replay("thinking")
    streamed: dict[tuple[str, int], str] = {}
    for event in events(items, "delta", "thinking"):
        key = (event["message_id"], event["index"])
        streamed[key] = streamed.get(key, "") + event["content"]
    finished = {
        (m["message_id"], m["index"]): m["content"][0].get("text") or m["content"][0].get("thinking")
        for m in events(items, "message")
    }
    assert streamed == finished
    assert sorted(index for _, index in finished) == [0, 1]


def test_a_tool_use_follows_its_message_and_its_result_has_its_id() -> None:
    items = replay("two_tools")
    items = items[: items.index(done(items)[0])]
    order = [e["type"] for e in events(items, "message", "tool_use", "permission_request", "tool_result")]
    assert order[: order.index("permission_request")].count("tool_use") == 2
    used = [e["tool_use_id"] for e in events(items, "tool_use")]
    assert [e["tool_use_id"] for e in events(items, "tool_result")] == used
    assert [e["tool_use_id"] for e in events(items, "permission_request")] == used
    blocks = [b["id"] for m in events(items, "message") for b in m["content"] if b["type"] == "tool_use"]
    assert blocks == used


@pytest.mark.parametrize(
    ("name", "stop_reason"),
    [
        ("plain", "end_turn"),
        ("max_tokens", "end_turn"),
        ("tool_deny", "end_turn"),
        ("interrupt", "interrupted"),
        ("interrupt_permission", "interrupted"),
        ("max_turns", "max_turns"),
        ("error_400", "error"),
        ("error_529", "error"),
        ("error_529_recovers", "end_turn"),
        ("not_logged_in", "error"),
    ],
)
def test_why_a_turn_stops(name: str, stop_reason: str) -> None:
    assert outcome(name) == [stop_reason]


@pytest.mark.parametrize(
    ("name", "code"),
    [("error_400", "invalid_request"), ("error_529", "overloaded"), ("not_logged_in", "not_logged_in")],
)
def test_is_error_counts_and_not_the_subtype(name: str, code: str) -> None:
    result = next(m for m in map(json.loads, recorded(name)) if m["type"] == "result")
    assert result["subtype"] == "success"
    items = replay(name)
    errors = events(items, "error")
    assert [e["code"] for e in errors] == [code]
    *_, last, end = items
    assert last == errors[0] and isinstance(end, Done)


@pytest.mark.parametrize("name", ["interrupt", "interrupt_permission", "max_turns", "error_529_recovers"])
def test_no_error_where_nothing_has_failed(name: str) -> None:
    assert not events(replay(name), "error")


def test_notices() -> None:
    retry = events(replay("error_529_recovers"), "notice")[0]
    assert retry["name"] == "api_retry"
    assert retry["detail"]["error_status"] == 529 and retry["detail"]["attempt"] == 1
    (limit,) = events(replay("rate_limit"), "notice")
    assert (limit["name"], limit["detail"]["status"]) == ("rate_limit", "allowed_warning")
    began, compacted = events(replay("compact"), "notice")
    assert (began["name"], compacted["name"], compacted["detail"]["trigger"]) == ("compacting", "compacted", "manual")


def test_a_cut_stream_is_voided_before_it_comes_again() -> None:
    items = events(replay("cut_stream"), "delta", "message")
    ids = list(dict.fromkeys(e["message_id"] for e in items))
    assert len(ids) == 2
    void = next(e for e in items if e["type"] == "message")
    assert (void["message_id"], void["index"], void["content"]) == (ids[0], 0, [])
    assert all(e["message_id"] == ids[1] for e in items[items.index(void) + 1 :])


def test_a_cut_stream_is_also_voided_by_an_answer_that_is_not_streamed() -> None:
    protocol = new_protocol()
    items: list[Item] = []
    for event in (
        {"type": "message_start", "message": {"id": "old"}},
        {"type": "content_block_start", "index": 0},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one"}},
    ):
        items += protocol.receive(line(type="stream_event", event=event, parent_tool_use_id=None))
    for text in ("one two", "three"):
        message = {"id": "new", "content": [{"type": "text", "text": text}]}
        items += protocol.receive(line(type="assistant", message=message, parent_tool_use_id=None))
    said = [(e["message_id"], e["index"], e["content"]) for e in events(items, "message")]
    assert [(i, n, len(c)) for i, n, c in said] == [("old", 0, 0), ("new", 0, 1), ("new", 1, 1)]


def test_what_was_never_finished_in_one_turn_is_not_voided_in_the_next() -> None:
    lines = recorded("cut_stream")
    end = next(n for n, one in enumerate(lines) if b'"message_stop"' in one)
    failed = line(type="result", is_error=True, result="lost", terminal_reason="api_error", user_message_uuids=["u"])
    protocol = new_protocol()
    protocol.begin("u", "x")
    protocol.heard = True
    for one in [*lines[4 : end + 1], failed]:
        protocol.receive(one)
    assert all(m["content"] for m in events(replay("plain", protocol), "message"))


def test_subagents_are_told_apart() -> None:
    items = replay("subagent")
    task = events(items, "tool_use")[0]
    inner = [e for e in events(items) if e.get("parent_tool_use_id") == task["tool_use_id"]]
    assert {"message", "tool_use", "tool_result"} == {e["type"] for e in inner}
    outer = next(e for e in events(items, "tool_result") if e["tool_use_id"] == task["tool_use_id"])
    assert "parent_tool_use_id" not in outer and isinstance(outer["content"], list)


def test_a_turn_that_nobody_asked_for_is_the_agents_own() -> None:
    items = replay("background_bash")
    mine, own = done(items)
    assert mine.uuid == uuids("background_bash")[0] and own.uuid is None
    begun = next(i for i in items if isinstance(i, OwnTurn))
    assert "completed" in begun.content
    assert items.index(mine) < items.index(begun) < items.index(own)


def test_a_result_that_is_not_ours_does_not_end_our_turn() -> None:
    first, second = uuids("background_bash")[0], "ours"
    protocol = new_protocol()
    items: list[Item] = []
    for one in recorded("background_bash"):
        message = json.loads(one)
        if message.get("state") == "queued":
            protocol.begin(first, "x")
        if message.get("subtype") == "task_notification":
            protocol.begin(second, "asked while the agent was about to begin a turn of its own")
        items += protocol.receive(one)
    assert [d.uuid for d in done(items)] == [first, None]
    assert protocol.busy
    items = protocol.receive(line(type="result", is_error=False, user_message_uuids=[second], stop_reason="end_turn"))
    assert [d.uuid for d in done(items)] == [second]
    assert not protocol.busy


def test_a_message_that_another_turn_took_in_ends_with_that_turn() -> None:
    later = uuids("steered")[1]
    protocol = new_protocol()
    items: list[Item] = []
    for one in recorded("steered"):
        if json.loads(one).get("command_uuid") == later and not protocol.busy:
            protocol.begin(later, "x")
        items += protocol.receive(one)
    assert [d.uuid for d in done(items)] == [later]


def test_messages_that_were_merged_end_with_one_result() -> None:
    third = uuids("two_queued")[-1]
    assert [d.uuid for d in done(replay("two_queued", follow=[third]))][-1:] == [third]


def steering(name: str, *, follow: bool = True) -> list[Item]:
    """A recording in which the first message is ours, and the others were handed to its turn."""
    protocol = new_protocol()
    first, *others = uuids(name)
    items: list[Item] = []
    for one in recorded(name):
        message = json.loads(one)
        if message.get("state") == "queued" and message["command_uuid"] == first:
            protocol.begin(first, "x")
        elif message.get("state") == "queued":
            protocol.steer(message["command_uuid"], "y")
        items += protocol.receive(one)
        if follow and done(items) and not protocol.busy:
            for uuid in others:
                protocol.follow(uuid)
                follow = False
                break
    assert not protocol.busy and not any(protocol.expects(uuid) for uuid in uuids(name))
    return [item for item in items if isinstance(item, Done | Taken)]


def test_a_message_for_a_turn_that_calls_a_tool_is_taken_up_before_its_end() -> None:
    first, second = uuids("steered")
    taken, end = steering("steered")
    assert taken == Taken(second) and isinstance(end, Done) and end.uuid == first


@pytest.mark.parametrize("follow", [True, False])
def test_messages_for_a_turn_in_its_last_reply_get_one_of_their_own(follow: bool) -> None:
    first, second, third = uuids("two_queued")
    end, taken, other_end = steering("two_queued", follow=follow)
    assert isinstance(end, Done) and end.uuid == first
    assert taken == Taken(third)
    assert isinstance(other_end, Done) and other_end.uuid == second


def lifecycle(uuid: str, state: str) -> bytes:
    return line(type="command_lifecycle", command_uuid=uuid, state=state)


@pytest.mark.parametrize("state", ["cancelled", "discarded", "refused", "completed"])
def test_a_message_that_was_dropped_ends_no_turn(state: str) -> None:
    protocol = new_protocol()
    protocol.begin("u", "x")
    protocol.steer("s", "y")
    assert protocol.receive(lifecycle("s", "queued")) == []
    assert protocol.receive(lifecycle("s", state)) == [Refused("s")]
    assert not protocol.expects("s") and protocol.expects("u")


def test_a_turn_of_the_agents_own_takes_a_message_up_too() -> None:
    protocol = new_protocol()
    protocol.receive(line(type="system", subtype="init"))
    protocol.steer("s", "y")
    assert protocol.receive(lifecycle("s", "started")) == [Taken("s")]
    assert protocol.expects(None)


def test_an_interrupt_that_came_before_a_steered_message_had_begun_is_sent_again() -> None:
    protocol = new_protocol()
    protocol.steer("s", "y")
    protocol.follow("s")
    assert protocol.busy
    request_id, _ = protocol.interrupt()
    response = {"subtype": "success", "request_id": request_id, "response": {"still_queued": ["s"]}}
    protocol.receive(line(type="control_response", response=response))
    protocol.receive(lifecycle("s", "started"))
    assert sent(protocol.receive(line(type="system", subtype="init", user_message_uuids=["s"])))


def test_a_new_conversation_is_told_once() -> None:
    protocol = new_protocol()
    init = line(type="system", subtype="init", session_id="d")
    assert not [
        i for i in protocol.receive(line(type="system", subtype="init", session_id="c")) if isinstance(i, Moved)
    ]
    assert [i for i in protocol.receive(init) if isinstance(i, Moved)] == [Moved("d")]
    assert not protocol.receive(init)


def test_a_turn_of_the_agents_own_ends_when_its_result_was_too_long() -> None:
    protocol = new_protocol()
    protocol.receive(line(type="system", subtype="init"))
    error, *none = protocol.dropped(Oversized(99, b'x"},"type":"assistant"}'))
    assert isinstance(error, dict) and none == []
    said, end = protocol.dropped(Oversized(99, b'\\"type\\":","type":"result","uuid":"u"}'))
    assert isinstance(said, dict) and isinstance(end, Done) and end.uuid is None
    assert not protocol.busy


def test_cost_is_of_the_turn() -> None:
    results = [m for m in map(json.loads, recorded("background_bash")) if m["type"] == "result"]
    costs = [d.complete["cost_usd"] for d in done(replay("background_bash"))]
    assert sum(costs) == pytest.approx(results[-1]["total_cost_usd"])
    assert costs[0] == pytest.approx(results[0]["total_cost_usd"])


def test_cost_of_a_cli_that_gives_only_the_total() -> None:
    protocol = new_protocol()
    costs = []
    for uuid, total in (("a", 0.5), ("b", 0.75), ("c", 0.1)):
        protocol.begin(uuid, "x")
        protocol.heard = True
        result = line(type="result", is_error=False, user_message_uuids=[uuid], total_cost_usd=total)
        costs += [d.complete["cost_usd"] for d in done(protocol.receive(result))]
    assert costs == [0.5, 0.25, 0.0]


def test_a_message_to_the_cli() -> None:
    sent = new_protocol().begin("u", "a\nb\u2028\ud800")
    assert b"\n" not in sent and sent.isascii()
    message = json.loads(sent)
    assert message["uuid"] == "u" and message["client_composed"] is True
    assert message["message"] == {"role": "user", "content": "a\nb\u2028\ud800"}


def test_content_that_can_not_be_said_is_refused_and_begins_nothing() -> None:
    protocol = new_protocol()
    nan = [{"type": "text", "text": "x", "extra": float("nan")}]
    for content in (nan, [], [{"type": "text"}], [{"type": "tool_result"}], None):
        with pytest.raises(InvalidRequest):
            protocol.begin("u", content)  # type: ignore[arg-type]
    assert not protocol.busy


def sent(items: list[Item]) -> list[Json]:
    return [json.loads(i.line) for i in items if isinstance(i, Send)]


def asked(name: str) -> tuple[Protocol, Json]:
    """A protocol, and the permission request that it waits for an answer to."""
    protocol = new_protocol()
    protocol.begin(uuids(name)[0], "x")
    for one in recorded(name):
        if requests := events(protocol.receive(one), "permission_request"):
            return protocol, requests[0]
    raise AssertionError("nothing was asked")


def test_answers_to_a_permission_request() -> None:
    protocol, request = asked("tool_allow")
    assert request["tool_name"] == "Write" and request["suggestions"]
    (reply,) = sent(protocol.answer(request["request_id"], Decision("allow")))
    cli_id = next(m for m in map(json.loads, recorded("tool_allow")) if m["type"] == "control_request")["request_id"]
    assert reply["response"]["request_id"] == cli_id
    assert reply["response"]["response"] == {"behavior": "allow", "updatedInput": request["input"]}
    with pytest.raises(Conflict):
        protocol.answer(request["request_id"], Decision("deny"))

    protocol, request = asked("tool_allow")
    with pytest.raises(InvalidRequest):
        protocol.answer(request["request_id"], Decision("allow", updated_input={"x": float("inf")}))
    (reply,) = sent(protocol.answer(request["request_id"], Decision("deny", message="no")))
    assert reply["response"]["response"] == {"behavior": "deny", "message": "no", "interrupt": False}


def test_an_answer_adds_rules_or_leaves_that_to_others() -> None:
    rule: Json = {
        "type": "addRules",
        "rules": [{"toolName": "Bash"}],
        "behavior": "allow",
        "destination": "localSettings",
    }
    mode: Json = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    cases: list[tuple[list[Json], list[Json] | None, list[Json]]] = [
        ([rule, mode], [mode], [rule]),
        ([mode], [mode], []),
        ([], None, []),
    ]
    for suggestions, updates, rules in cases:
        protocol = new_protocol()
        request: Json = {
            "subtype": "can_use_tool",
            "tool_name": "B",
            "input": {},
            "permission_suggestions": suggestions,
        }
        always = Decision("allow", remember=True)
        of_session = [{**each, "destination": "session"} for each in suggestions]
        for adds_rules, expected in ((False, updates), (True, of_session)):
            items = protocol.receive(line(type="control_request", request_id="r", request=request))
            (asked,) = events(items, "permission_request")
            assert protocol.remembered(asked["request_id"], always) == rules
            assert protocol.remembered(asked["request_id"], Decision("allow")) == []
            (reply,) = sent(protocol.answer(asked["request_id"], always, rules=adds_rules))
            assert reply["response"]["response"].get("updatedPermissions") == expected
            assert not protocol.remembered(asked["request_id"], always)


def test_a_request_that_outlives_its_turn_moves_into_one_of_its_own() -> None:
    protocol = new_protocol()
    protocol.begin("u", "x")
    request = {"subtype": "can_use_tool", "tool_name": "Write", "input": {"a": 1}}
    (first,) = events(protocol.receive(line(type="control_request", request_id="r", request=request)))
    protocol.receive(line(type="command_lifecycle", command_uuid="u", state="started"))
    items = protocol.receive(line(type="result", is_error=False, user_message_uuids=["u"]))
    withdrawn, end, own, again = items
    assert withdrawn == {"type": "permission_withdrawn", "request_id": first["request_id"]}
    assert isinstance(end, Done) and isinstance(own, OwnTurn) and isinstance(again, dict)
    assert again["type"] == "permission_request" and again["request_id"] != first["request_id"]
    reply, own_end = protocol.answer(again["request_id"], Decision("allow"))
    assert isinstance(reply, Send) and json.loads(reply.line)["response"]["request_id"] == "r"
    assert isinstance(own_end, Done) and own_end.uuid is None
    assert not protocol.busy


def test_an_interrupt_that_came_too_early_is_sent_again() -> None:
    protocol = new_protocol()
    protocol.begin("u", "x")
    request_id, items = protocol.interrupt()
    assert sent(items)[0]["request"] == {"subtype": "interrupt"}
    response = {"subtype": "success", "request_id": request_id, "response": {"still_queued": ["u"]}}
    assert protocol.receive(line(type="control_response", response=response)) == [Answered(request_id, None)]
    again = protocol.receive(line(type="system", subtype="init", user_message_uuids=["u"]))
    assert sent(again)[0]["request"] == {"subtype": "interrupt"}
    assert not protocol.receive(line(type="system", subtype="init", user_message_uuids=["u"]))


def test_a_message_that_is_withdrawn_before_it_began_ends_interrupted() -> None:
    protocol = new_protocol()
    protocol.begin("u", "x")
    (end,) = protocol.receive(line(type="command_lifecycle", command_uuid="u", state="cancelled"))
    assert isinstance(end, Done) and end.complete["stop_reason"] == "interrupted"


def test_an_error_of_a_control_request_is_told() -> None:
    response = {"subtype": "error", "request_id": "r", "error": "no"}
    assert new_protocol().receive(line(type="control_response", response=response)) == [Answered("r", "no")]


def test_lines_that_can_not_be_read_are_counted_and_nothing_else() -> None:
    protocol = new_protocol()
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for bad in (b"", b"x", b"[]", b"7", b"\xff\xfe", b'{"type":', deep):
        assert protocol.receive(bad) == []
    assert protocol.ignored == 7
    nested: Any = "x"
    for _ in range(MAX_DEPTH + 1):
        nested = [nested]
    assert protocol.receive(line(type="rate_limit_event", rate_limit_info=nested)) == []
    assert protocol.ignored == 8


KINDS = ["stream_event", "assistant", "user", "system", "result", "command_lifecycle", "what"]
KINDS += ["control_request", "control_cancel_request", "control_response"]


@pytest.mark.parametrize("kind", KINDS)
def test_lines_with_members_of_the_wrong_kind_do_no_harm(kind: str) -> None:
    odd: list[Any] = [None, 7, "x", [], {}, [7], {"type": 7}, {"content": [7, {"type": "tool_use"}]}, {"id": []}]
    for value in odd:
        protocol = new_protocol()
        protocol.begin("u", "x")
        protocol.heard = True
        members = (
            "event",
            "message",
            "request",
            "response",
            "user_message_uuids",
            "usage",
            "origin",
            "parent_tool_use_id",
        )
        for name in (*members, "subtype", "model_usage_since_last_result", "total_cost_usd", "request_id", "agent_id"):
            protocol.receive(line(**{"type": kind, name: value}))
        protocol.receive(line(**dict.fromkeys(members, value), type=kind))


def test_a_line_of_20_mebibytes_is_read() -> None:
    message = {"id": "m", "content": [{"type": "text", "text": "[{" * (10 << 20)}]}
    (event,) = events(new_protocol().receive(line(type="assistant", message=message)))
    assert len(event["content"][0]["text"]) == 20 << 20


def said(uuid: str, text: str, message_id: str = "m", **more: Any) -> bytes:
    message = {"id": message_id, "role": "assistant", "content": [{"type": "text", "text": text}]}
    return line(type="assistant", message=message, parent_tool_use_id=None, uuid=uuid, **more)


def test_what_is_taken_back_is_named_once() -> None:
    protocol = new_protocol()
    protocol.begin("u", "x")
    for number in range(3):
        protocol.receive(said(f"l{number}", "x"))
    protocol.receive(said("other", "x", "n"))
    gone = {"type": "tombstone", "message": {"uuid": "l2"}}
    (void,) = events(protocol.receive(line(**gone)))
    assert (void["message_id"], void["index"], void["content"]) == ("m", 2, [])
    assert protocol.receive(line(**gone)) == [] and protocol.receive(line(type="tombstone", message="odd")) == []
    # Of several lines of one message the first one counts: all behind it goes too.
    again = events(protocol.receive(said("l4", "y", "o", supersedes=["l1", "l0", "other", "unknown", 7])))
    assert [(e["message_id"], e["index"], len(e["content"])) for e in again] == [("m", 0, 0), ("n", 0, 0), ("o", 0, 1)]


def test_a_reply_that_could_not_be_read_is_taken_back() -> None:
    protocol = new_protocol()
    protocol.begin("u", "x")
    protocol.receive(said("l", "x"))
    note = {"role": "user", "content": [{"type": "text", "text": "The model's tool call could not be parsed"}]}
    items = events(protocol.receive(line(type="user", isSynthetic=True, message=note, retracted_message_uuids=["l"])))
    assert [(e["type"], e.get("name"), e.get("content")) for e in items] == [
        ("message", None, []),
        ("notice", "reply_discarded", None),
    ]


def test_a_switch_of_the_model_is_told() -> None:
    switch = {"original_model": "a", "fallback_model": "b", "choice": "cancelled"}
    told = events(new_protocol().receive(line(type="system", subtype="model_consent_fallback", **switch)), "notice")
    assert [(e["name"], e["detail"]) for e in told] == [
        ("model_fallback", {"model": "a", "fallback_model": "b", "reason": "cancelled"})
    ]

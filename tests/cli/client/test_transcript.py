"""Events in, text out."""

import io
import re
from typing import Any

import pytest

from portico.cli.client.past import past_turns
from portico.cli.client.screen import Screen
from portico.cli.client.transcript import Piece, Transcript, describe_tool, printable, shorten

Event = dict[str, Any]


def delta(content: str, message_id: str = "m", index: int = 0, **more: Any) -> Event:
    return {"type": "delta", "content": content, "message_id": message_id, "index": index, **more}


def message(*texts: str, message_id: str = "m", index: int = 0, **more: Any) -> Event:
    content = [{"type": "text", "text": text} for text in texts]
    return {
        "type": "message",
        "role": "assistant",
        "content": content,
        "message_id": message_id,
        "index": index,
        **more,
    }


def complete() -> Event:
    return {"type": "complete", "stop_reason": "end_turn", "usage": {}, "cost_usd": 0, "duration_ms": 1}


def pieces(*events: Event) -> list[Piece]:
    transcript = Transcript()
    return [piece for event in events for piece in transcript.feed(event)]


def text(*events: Event) -> str:
    return "".join(piece.text for piece in pieces(*events) if piece.kind == "text")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([delta("a "), delta("b"), message("a b")], "a b\n"),
        ([delta("a\n"), message("a\n")], "a\n"),
        ([delta("a\n"), delta("\n"), delta("b"), message("a\n\nb")], "a\n\nb\n"),
        ([message("never streamed")], "never streamed\n"),
        ([delta("a b"), message("a b c")], "a b c\n"),
        ([delta("wrong"), message("right")], "wrong\nright\n"),
        ([delta("cut o"), delta("whole", "m2"), message("whole", message_id="m2")], "cut o\nwhole\n"),
        ([delta("one"), message("one"), delta("two", index=1), message("two", index=1)], "one\ntwo\n"),
        ([delta("one"), delta("two", index=1), message("one", "two")], "one\ntwo\n"),
        ([delta("no end"), complete()], "no end\n"),
        ([delta("a"), message("a"), complete()], "a\n"),
        ([complete()], ""),
        ([delta("main"), delta("sub", "s", parent_tool_use_id="t"), message("main")], "main\n"),
        ([delta("a"), {"type": "from the future"}, message("a")], "a\n"),
        ([delta("x \ud83d"), delta("\ude00 y"), message("x \U0001f600 y")], "x \U0001f600 y\n"),
    ],
)
def test_the_text_of_an_answer(events: list[Event], expected: str) -> None:
    assert text(*events) == expected


def test_what_is_shown_around_the_answer() -> None:
    shown = pieces(
        {
            "type": "query",
            "content": [{"type": "text", "text": "look"}, {"type": "image", "source": {}}],
            "principal": "a",
        },
        {"type": "query", "content": "The tests are done.", "principal": None},
        {"type": "thinking", "content": "hm", "message_id": "m", "index": 0},
        {"type": "tool_use", "tool_use_id": "t", "tool_name": "Bash", "input": {"command": "ls\n -l"}},
        {"type": "tool_use", "tool_use_id": "u", "tool_name": "Read", "input": {}, "parent_tool_use_id": "t"},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "no"}], "is_error": True},
        {"type": "tool_result", "content": "no", "is_error": True, "details": {"denied": {"kind": "answer"}}},
        message("Two\nfiles.", parent_tool_use_id="t", subagent="Explore"),
        message(parent_tool_use_id="t", subagent="Explore"),
        {"type": "task", "task_id": "b", "state": "started", "kind": "shell", "description": "Run the tests"},
        {"type": "task", "task_id": "b", "state": "progress", "kind": "shell", "description": "Run the tests"},
        {"type": "task", "task_id": "b", "state": "ended", "description": "Run the tests", "outcome": "stopped"},
        {"type": "notice", "name": "api_retry", "detail": {"attempt": 1}},
        {"type": "error", "error": "Overloaded", "code": "overloaded"},
    )
    assert [(piece.kind, piece.text) for piece in shown] == [
        ("query", "look [image]"),
        ("begun", "The tests are done."),
        ("thinking", "hm"),
        ("tool", "Bash ls -l"),
        ("tool", "  Read"),
        ("result", "failed: no"),
        ("result", "denied: no"),
        ("notice", "Explore: Two files."),
        ("notice", "task started: Run the tests"),
        ("notice", "task ended (stopped): Run the tests"),
        ("notice", 'api retry: {"attempt": 1}'),
        ("error", "Overloaded (overloaded)"),
    ]


def test_who_works_beside_the_agent_does_not_interrupt_it() -> None:
    tool = {"type": "tool_use", "tool_name": "Bash", "input": {"command": "ls"}, "parent_tool_use_id": "t"}
    shown = pieces(delta("It is on its"), tool, delta(" way."), message("It is on its way."))
    assert [piece.text for piece in shown] == ["It is on its", " way.", "\n", "  Bash ls"]


def test_long_things_are_shortened_to_one_line() -> None:
    assert len(describe_tool("Write", {"file_path": "x" * 10_000})) < 120
    assert shorten("a\n\n b\t") == "a b"
    assert shorten("x" * 1_000_000).endswith("...")
    assert shorten(" " * 5000 + "x") == "..."


def test_nothing_that_steers_a_terminal_comes_through() -> None:
    assert printable("a\x1b]52;c;eA==\x07b\x9b1m\r\tc\n") == "a\ufffd]52;c;eA==\ufffdb\ufffd1m\ufffd\tc\n"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_note_in_mid_line_gets_a_line_of_its_own() -> None:
    both = Tty()
    screen = Screen(both, both, details=True)
    screen.show([Piece("text", "half"), Piece("tool", "Bash ls"), Piece("text", "\n"), Piece("text", "next\n")])
    assert re.sub(r"\x1b\[[0-9;]*m", "", both.getvalue()) == "half\n* Bash ls\nnext\n"


def test_in_a_pipe_the_answer_is_exact_whatever_is_noted() -> None:
    out, notes = io.StringIO(), io.StringIO()
    screen = Screen(out, notes, details=True)
    screen.show([Piece("text", "ha\x1b"), Piece("notice", "n"), Piece("thinking", "hm"), Piece("text", "lf\n\n")])
    assert out.getvalue() == "ha\x1blf\n\n"
    assert notes.getvalue() == "- n\nhm\n"


def test_without_details_only_errors_are_noted() -> None:
    out, notes = io.StringIO(), io.StringIO()
    Screen(out, notes, details=False).show([Piece("tool", "t"), Piece("thinking", "h"), Piece("error", "e")])
    assert notes.getvalue() == "error: e\n"


def test_past_turns_are_told_apart() -> None:
    def event(seq: int, turn_id: str | None, kind: str, **more: Any) -> Event:
        return {"seq": seq, "type": kind, **({"turn_id": turn_id} if turn_id else {}), **more}

    turns = past_turns(
        [
            event(3, "a", "delta", content="?"),
            event(4, "a", "complete"),
            event(5, None, "session", state="idle"),
            event(6, "b", "query", content="hi"),
            {"seq": 7, "turn_id": "b", **delta("he")},
            {"seq": 8, "turn_id": "b", **message("hello")},
            event(9, "c", "query", content="queued"),
            event(10, "b", "complete"),
            event(11, "c", "permission_resolved", request_id="r", behavior="deny", reason="timeout"),
        ]
    )
    assert [(turn.turn_id, turn.whole, turn.complete) for turn in turns] == [
        ("a", False, True),
        ("b", True, True),
        ("c", False, False),
    ]
    assert [piece.text for piece in turns[1].pieces()] == ["hi", "hello", "\n"]
    assert turns[2].settled == {"r"}

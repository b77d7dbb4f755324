"""The protocol on lines that no CLI should say: real ones in which something is missing, or is something else."""

from __future__ import annotations

import copy
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from portico.core.agent import Decision
from portico.core.errors import PorticoError
from portico.core.events import encode_json
from portico.plugins.claude_code.framer import LineFramer, Oversized
from portico.plugins.claude_code.items import Answered, Done, Moved, Refused, Send, Taken
from portico.plugins.claude_code.protocol import Protocol

LINES = sorted(
    {
        line
        for path in (Path(__file__).parent / "recordings").glob("*.jsonl")
        for line in path.read_bytes().splitlines()
        if len(line) < 4000
    }
)
ITEMS = (dict, Send, Done, Taken, Refused, Moved, Answered)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "\ud800", "result"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def changed(message: Any, value: Any, chance: random.Random, *, gone: bool) -> Any:
    """A copy in which one place, anywhere, has another value, or is gone."""
    message = node = copy.deepcopy(message)
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return message
        key = chance.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.7:
            node = node[key]
        elif gone:
            del node[key]
            return message
        else:
            node[key] = value
            return message


@st.composite
def strange(draw: st.DrawFn) -> bytes:
    line = draw(st.sampled_from(LINES))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=64))
    if kind == 1:
        return line[: draw(st.integers(0, len(line)))]
    if kind == 2:
        return line
    chance = draw(st.randoms(use_true_random=False))
    return json.dumps(changed(json.loads(line), draw(VALUES), chance, gone=kind == 3)).encode("utf-8", "replace")


ACTIONS = st.sampled_from(["begin", "steer", "follow", "interrupt", "answer", "dropped", "", "", "", ""])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(ACTIONS, strange()), max_size=12))
def test_no_line_is_too_strange(script: list[tuple[str, bytes]]) -> None:
    protocol = Protocol("c")
    asked: list[str] = []
    for number, (action, line) in enumerate(script):
        items: list[Any] = []
        with suppress(PorticoError):
            match action:
                case "begin" if not protocol.busy:
                    protocol.begin(f"u{number}", "x")
                case "steer" if protocol.busy:
                    protocol.steer(f"u{number}", "x")
                case "follow":
                    protocol.follow(f"u{number - 1}")
                case "interrupt":
                    items += protocol.interrupt()[1]
                case "answer" if asked:
                    items += protocol.answer(asked.pop(), Decision("allow"))
                case "dropped":
                    items += protocol.dropped(Oversized(10**8, line))
        items += protocol.receive(line)
        for item in items:
            assert isinstance(item, ITEMS) or type(item).__name__ == "OwnTurn", item
            if isinstance(item, Send):
                assert json.loads(item.line) and b"\n" not in item.line
            if isinstance(item, dict):
                assert isinstance(item["type"], str)
                with suppress(ValueError):  # NaN, which only Python takes for JSON: whoever runs the turn refuses it
                    encode_json(item)
                if item["type"] == "permission_request":
                    asked.append(item["request_id"])


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"\r\n", b"x" * 70]), max_size=30))
def test_however_bytes_come_they_are_the_same_lines(chunks: list[bytes]) -> None:
    pieces, whole = LineFramer(64), LineFramer(64)
    one = [line for chunk in chunks for line in pieces.feed(chunk)] + [pieces.close()]
    assert one == [*whole.feed(b"".join(chunks)), whole.close()]

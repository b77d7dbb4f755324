"""The count of a reply's tokens, wherever its bytes are cut."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from portico.core.prices import LIST_PRICES
from portico.gateway.meter import MAX_LINE, JsonMeter, StreamMeter
from portico.plugins.demo.reply import events, message
from portico.plugins.demo.script import Step

TRICKY = 'data: {"type":"message_delta","usage":{"output_tokens":999999}}\n\n"message_start"'


def stream_of(step: Step) -> bytes:
    frames = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events(step, "claude-opus-5-5"))
    return "".join(frames).encode()


def total(*chunks: bytes) -> tuple[dict[str, Any], float]:
    meter = StreamMeter()
    for chunk in chunks:
        meter.feed(chunk)
    return meter.total()


@given(st.lists(st.integers(0, 2000), max_size=20), st.sampled_from(["hello you", TRICKY, "x" * 3 * MAX_LINE]))
def test_it_counts_the_same_wherever_the_stream_is_cut(cuts: list[int], text: str) -> None:
    whole = stream_of(Step(say=text, chunk=len(text), usage={"input_tokens": 70, "output_tokens": 40}))
    places = sorted({*(cut for cut in cuts if cut < len(whole)), *range(0, len(whole), 65_536), len(whole)})
    chunks = [whole[a:b] for a, b in zip([0, *places], places, strict=False)]
    usage, usd = total(*chunks)
    assert (usage["input_tokens"], usage["output_tokens"]) == (70, 40)
    assert usd == LIST_PRICES.cost("claude-opus-5-5", usage) == (70 * 4 + 40 * 20) / 1e6


def test_a_stream_that_was_cut_costs_its_prompt_and_a_token_a_delta() -> None:
    whole = stream_of(Step(say="one two three four", usage={"input_tokens": 50, "output_tokens": 4000}))
    before_the_end = whole[: whole.index(b'{"type": "message_delta"')]
    usage, _ = total(before_the_end)
    assert (usage["input_tokens"], usage["output_tokens"]) == (50, 4)


def test_what_tells_of_no_usage_costs_nothing() -> None:
    for said in (
        b"",
        b"event: ping\ndata: {}\n\n",
        b'data: {"type":"message_start"',
        b'data: ["message_start"]\n',
        b"\xff\n",
    ):
        assert total(said) == ({}, 0.0)


def test_a_reply_that_does_not_stream() -> None:
    reply = message(Step(say="x", usage={"input_tokens": 7, "output_tokens": 9}), "claude-opus-5-5")
    meter = JsonMeter()
    for byte in json.dumps(reply).encode():
        meter.feed(bytes([byte]))
    usage, usd = meter.total()
    assert usage["input_tokens"] == 7 and usd == (7 * 4 + 9 * 20) / 1e6
    assert JsonMeter().total() == ({}, 0.0)

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.core import errors
from portico.core.events import Draft, Event, Notice, encode_event
from portico.transports import wire

TEXT = st.text(st.characters(codec=None), max_size=40)


def test_a_batch_is_one_piece_of_frames() -> None:
    batch = [Event(7, "delta", "t", b'{"a":1}'), Event(8, "complete", "t", b'{"b":2}')]
    assert wire.frames(batch) == b'data: {"a":1}\nid: 7\n\ndata: {"b":2}\nid: 8\n\n'


@given(TEXT)
def test_no_text_breaks_a_frame(text: str) -> None:
    event = encode_event("s", 1, "now", Draft(Notice(type="notice", name="n", detail=text)))
    frame = wire.frames([event])
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame
    assert json.loads(frame.split(b"\n")[0].removeprefix(b"data: "))["detail"] == text


def test_a_page_joins_the_bytes_that_are_there() -> None:
    batch = [Event(7, "delta", "t", b'{"a":1}'), Event(8, "delta", "t", b'{"a":2}')]
    assert json.loads(wire.page(batch, 8, True)) == {"events": [{"a": 1}, {"a": 2}], "next_after": 8, "has_more": True}
    assert json.loads(wire.page([], 3, False)) == {"events": [], "next_after": 3, "has_more": False}


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (errors.MalformedRequest("x"), 400, {}),
        (errors.Unauthenticated("x"), 401, {"www-authenticate": "Bearer"}),
        (errors.NotAllowed("x"), 403, {}),
        (errors.NotFound("x", code="session_not_found"), 404, {}),
        (errors.Conflict("x", code="busy"), 409, {}),
        (errors.TooLarge("x"), 413, {}),
        (errors.InvalidRequest("x", errors=[{"loc": ["a"]}]), 422, {}),
        (errors.Exhausted("x", code="queue_full", retry_after=7), 429, {"retry-after": "7"}),
        (errors.Unavailable("x", code="draining"), 503, {"retry-after": "5"}),
        (errors.AgentUnavailable("x"), 503, {}),
        (errors.SequenceConflict("x"), 503, {}),
        (errors.AgentFailed("x"), 500, {}),
        (wire.HttpError(405, "method_not_allowed", "x", {"allow": "GET"}), 405, {"allow": "GET"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_kind_of_error_has_its_status(error: errors.PorticoError, status: int, headers: dict[str, Any]) -> None:
    got, got_headers, body = wire.problem(error)
    assert got == status
    assert got_headers == {"content-type": "application/problem+json", **headers}
    document = json.loads(body)
    assert document["status"] == status
    assert document["type"] == f"urn:portico:problem:{error.code}"
    assert document["code"] == error.code
    assert document["detail"] == "x"
    assert document["title"]


def test_further_members_can_not_replace_the_standard_ones() -> None:
    _, _, body = wire.problem(errors.Conflict("x", code="already_resolved", behavior="deny", status=200))
    assert json.loads(body)["behavior"] == "deny"
    assert json.loads(body)["status"] == 409

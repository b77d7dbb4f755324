from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from portico.core.errors import MalformedRequest
from portico.core.json_reader import MAX_MEMBERS
from portico.transports.parse import parse_event_id, parse_object, parse_query


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":\xff}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":1} {"b":2}',
        b"{" + b",".join(b'"%d":1' % n for n in range(MAX_MEMBERS + 1)) + b"}",
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
def test_what_is_not_a_json_object_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_object(body)
    assert caught.value.code == "malformed"
    assert len(caught.value.detail) < 200


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_malformed(body: bytes) -> None:
    with suppress(MalformedRequest):
        assert isinstance(parse_object(body), dict)


@pytest.mark.parametrize("query_string", [b"a=%ff", b"a=1&a=2", b"&".join(b"a%d=1" % n for n in range(101)), b"a=\xff"])
def test_bad_query_strings_are_malformed(query_string: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_query(query_string)


def test_a_query_string_is_text() -> None:
    assert parse_query(b"query=a+b%20c%2Bd&empty=&u=%C3%A4") == {"query": "a b c+d", "empty": "", "u": "ä"}


@pytest.mark.parametrize(
    "sent", [["x"], ["-1"], ["1.0"], ["1 1"], ["\u0663"], ["9" * 19], ["1", "2"], ["", "x"], ["3,4"]]
)
def test_an_event_id_that_nobody_gave_is_malformed(sent: list[str]) -> None:
    with pytest.raises(MalformedRequest):
        parse_event_id(_event_ids(sent))


@pytest.mark.parametrize("sent", [[], [""], [" "], ["\t"], ["", " "]])
def test_an_event_id_of_nothing_is_none(sent: list[str]) -> None:
    assert parse_event_id(_event_ids(sent)) is None


@pytest.mark.parametrize("sent", [["3"], ["\t3 "], ["", "3"], ["3", ""], ["3", "3"]])
def test_an_event_id_counts_whatever_empty_ones_are_beside_it(sent: list[str]) -> None:
    assert parse_event_id(_event_ids(sent)) == 3


def _event_ids(sent: list[str]) -> Headers:
    return Headers(raw=[(b"last-event-id", value.encode("utf-8")) for value in sent])

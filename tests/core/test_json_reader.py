"""The reader that makes values of JSON: it takes what Python's own decoder does, and stops where there is too much."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from portico.core.errors import MalformedRequest, PorticoError, TooLarge
from portico.core.json_reader import MAX_DEPTH, MAX_DIGITS, SLICE_BYTES, JsonReader
from portico.core.text import WIDE_BYTES

MIB = 1024 * 1024
KEYS = ("{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "\\ud83d", "\\ude00", "\\uD83D", "\\n", '\\"', "\\\\")
WORDS = ("d83d", "u", "ü", "😀", "0", "-1", "1.5", "1e5", "1e999", "01", "+", "true", "null", "false", "NaN", " ", "\n")
PARTS = (*KEYS, *WORDS, '"a"', '"b":', "[1,2]", '{"a":1}', "\x01", "\u2028", "x" * 300, '"' + "y" * 300 + '"')
TEXTS = st.lists(st.sampled_from(PARTS), max_size=30).map("".join)
STRINGS = st.lists(st.sampled_from((*KEYS[7:], *WORDS[:4], "x" * 250, "\x01")), max_size=30).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


def read(data: bytes, cuts: tuple[int, ...] = (), **limits: int) -> Any:
    reader = JsonReader(limits.pop("max_bytes", MIB), **limits)
    at = 0
    for size in (*cuts, len(data)):
        for _ in reader.feed(data[at : at + size]):
            pass
        at += size
    return reader.close()


def as_python_does(data: bytes) -> Any:
    """The value; raises ValueError also for what is not JSON but to Python."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(made := dict(pairs)) < len(pairs):
            raise ValueError("a name twice")
        return made

    def number(text: str) -> float:
        if math.isinf(value := float(text)):
            raise ValueError("too large")
        return value

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    return json.loads(data.decode(), object_pairs_hook=members, parse_float=number, parse_constant=refuse)


@given(
    st.one_of(
        st.binary(max_size=40),
        TEXTS.map(str.encode),
        STRINGS.map(lambda text: f'{{"a":"{text}"}}'.encode()),
        JSON.map(lambda value: json.dumps(value).encode()),
        JSON.map(lambda value: json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")),
    ),
    st.lists(st.integers(1, 20), max_size=20).map(tuple),
)
@example(b'"' + b"x" * 300 + b'\\ud83d"', (305,))
@example(b'"' + b"x" * 300 + b'\\ud83d\\ude00"', (305, 4))
@example(b'"' + b"x" * 300 + b'\\\\ud83d"', (303,))
def test_it_takes_what_pythons_decoder_takes_however_it_comes(data: bytes, cuts: tuple[int, ...]) -> None:
    try:
        expected = as_python_does(data)
    except ValueError:
        with pytest.raises(MalformedRequest):
            read(data, cuts)
    else:
        found = read(data, cuts)
        assert found == expected and json.dumps(found) == json.dumps(expected)


@pytest.mark.parametrize("value", [b"{}", b"0", b'""', b"[]", b"null", b'{"a":0}', b'"\\u0041"', b"[[]]"])
def test_what_has_too_many_values_is_refused_before_the_rest_of_it(value: bytes) -> None:
    body = b'{"query":[' + b",".join([value] * (MIB // (len(value) + 1))) + b"]}"
    reader, fed = JsonReader(32 * MIB), 0
    with pytest.raises(TooLarge) as refused:
        for fed in range(0, len(body), 1000):
            for _ in reader.feed(body[fed : fed + 1000]):
                pass
    assert refused.value.code == "too_many_values"
    assert fed < 11_000 * (len(value) + 1)


def test_as_many_values_as_may_be_and_one_more() -> None:
    assert read(b"[1,[],{}]", max_values=4) == [1, [], {}]
    for body in (b"[1,[],{}]", b'{"a":{"b":1},"c":2}', b'["a","b","c"]'):
        with pytest.raises(TooLarge):
            read(body, max_values=3)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        b"1" * (MAX_DIGITS + 1),
        b"-" + b"1" * 3 * MIB,
        b"0." + b"1" * 3 * MIB,
        b"x" * 3 * MIB,
        b'"' + b"\\" * 3 * MIB + b'"x',
        b'"' + b"x" * 300 + b"\xff",
    ],
    ids=lambda data: repr(data[:8]),
)
def test_what_goes_on_for_too_long_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRequest) as refused:
        read(data, (1000,) * 10, max_bytes=4 * MIB)
    assert len(refused.value.detail) < 200


def test_a_wide_character_makes_no_small_body_large_in_memory() -> None:
    short = "x" * 100_000 + "😀"
    assert read(json.dumps([short], ensure_ascii=False).encode(), max_bytes=200_000) == [short]
    with pytest.raises(TooLarge) as refused:
        read(json.dumps(["x" * (WIDE_BYTES // 4) + "😀"], ensure_ascii=False).encode(), max_bytes=WIDE_BYTES)
    assert refused.value.code == "too_large"
    long = "x" * (WIDE_BYTES // 4)  # narrow, it may be longer
    assert read(json.dumps([long, "😀"]).encode(), max_bytes=WIDE_BYTES) == [long, "😀"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b"x" * MIB + b'"}',
        b'{"a":"' + b"\\n" * (MIB // 2) + b'"}',
        b'{"a":"' + b"\\u00e9" * (MIB // 6) + b'"}',
        b'{"a":' + b" " * MIB + b"1}",
        b'{"a":[' + b",".join([b'"' + b"x" * 200 + b'"'] * 5000) + b"]}",
        b'{"a":[' + b"{}," * 9000 + b"0]}",
    ],
    ids=lambda body: repr(body[5:14]),
)
def test_others_have_their_turn_meanwhile(body: bytes) -> None:
    pauses = sum(1 for _ in JsonReader(MIB).feed(body))
    assert pauses >= max(len(body) // SLICE_BYTES - 1, (body.count(b",") - 200) // 128)


def test_a_refusal_says_where() -> None:
    with pytest.raises(PorticoError, match="a colon is expected, at character 6"):
        read(b'{"a" 1}')

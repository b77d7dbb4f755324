"""A reader of JSON (RFC 8259) that builds values as the bytes arrive, and checks limits before it builds anything.

No library does both. Those that build a value in one go (json, jiter, orjson) have built it before anybody can count.
Among those that stream, yajl (ijson) takes time quadratic in a string's length, and changes half of a surrogate pair
into other text.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Generator, Iterator
from enum import Enum
from typing import Any, NoReturn

from portico.core.errors import MalformedRequest, TooLarge
from portico.core.text import Text, memory_for

MAX_VALUES = 10_000
"""The most objects, arrays, strings, numbers and so on. Large legitimate messages consist of a few long strings."""
MAX_MEMBERS = 1000
"""The most members of one object: each unknown member costs an error message."""
MAX_DEPTH = 1000
MAX_DIGITS = 1000
"""The most digits of a number. For integers Python's own limit is 4,300, with its own error message."""

SLICE_BYTES = 32 * 1024
SLICE_TOKENS = 128
"""The work between two pauses. As many bytes, or tokens, take some tenths of a millisecond."""
SHORT = 256
"""The most characters of a string that is read in one go. A longer one grows piece by piece."""

_TOKEN = re.compile(
    r"""[ \t\n\r]*+(?:
        (?P<mark>[{}\[\],:])
        | "(?P<short>[^"\\\x00-\x1f]{0,256}+)"
        | (?P<string>")
        | (?P<word>[-+.0-9A-Za-z]++)
        | (?P<other>.)
    )?""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_WORDS = {"true": True, "false": False, "null": None}
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB]")
_ESCAPE = 6
"""The length of the longest escape; a surrogate pair consists of two escapes."""
_decoder = json.JSONDecoder()


class _Expected(Enum):
    VALUE = "a value"
    FIRST_VALUE = "a value or ]"
    NAME = "a name"
    FIRST_NAME = "a name or }"
    COLON = "a colon"
    NEXT = "a comma, or the end of the array or object"
    NOTHING = "nothing more"


class _Wanted(Enum):
    TEXT = "more text"
    PAUSE = "a pause, in which others have their turn"


_Steps = Generator[_Wanted, None, Any]


class JsonReader:
    """A reader of one value. It rejects names that appear twice in an object, and JSON that only Python accepts.

    The caller must pass at most ``max_bytes`` bytes. The reader never builds more than ``max_values`` values, an object
    has at most ``max_members``, and all strings together take at most `memory_for` ``max_bytes``.
    """

    def __init__(
        self,
        max_bytes: int,
        max_values: int = MAX_VALUES,
        *,
        max_members: int = MAX_MEMBERS,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._dropped = 0  # characters before the current text
        self._ended = False
        self._memory_left = memory_for(max_bytes)
        self._max_values = self._values_left = max_values
        self._max_members = max_members
        self._max_depth = max_depth
        self._expected = _Expected.VALUE
        self._open: list[dict[str, Any] | list[Any]] = []
        self._names: list[str] = []  # of the members whose values are open, or yet to come
        self._value: Any = None
        self._steps = self._read()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[None]:
        """Read the next bytes. The iterator works for some tenths of a millisecond before each yield.

        Raises `MalformedRequest`, or `TooLarge` (also ``too_many_values``), as soon as the fault is known.
        """
        for start in range(0, len(data), SLICE_BYTES):
            if start:
                yield
            self._take(data[start : start + SLICE_BYTES])
            for wanted in self._steps:
                if wanted is _Wanted.TEXT:
                    break
                yield

    def close(self) -> Any:
        """Return the value, after the last bytes. Raises `MalformedRequest`."""
        self._ended = True
        self._take(b"")
        for _ in self._steps:
            pass
        return self._value

    def _take(self, data: bytes | bytearray | memoryview) -> None:
        try:
            text = self._utf8.decode(data, self._ended)
        except UnicodeDecodeError:
            raise MalformedRequest("the body is not UTF-8") from None
        self._dropped += self._at
        self._text, self._at = self._text[self._at :] + text, 0

    # The tokens.

    def _read(self) -> Generator[_Wanted, None, None]:
        count = 0
        while True:
            token = _TOKEN.match(self._text, self._at)
            assert token is not None  # noqa: S101 - it matches the empty text
            kind, end = token.lastgroup, token.end()
            if kind == "word" and end == len(self._text) and not self._ended and end - token.start(kind) <= MAX_DIGITS:
                self._at = token.start(kind)  # there may be more of it
                yield _Wanted.TEXT
                continue
            self._at = end
            match kind:
                case "mark":
                    self._mark(token["mark"])
                case "short":
                    self._string(token["short"])
                case "string":
                    self._string((yield from self._long_string()))
                case "word":
                    self._add(self._word(token["word"]))
                case "other":
                    self._fail()
                case None if self._ended:
                    break
                case None:
                    yield _Wanted.TEXT
                    continue
            count += 1
            if count % SLICE_TOKENS == 0:
                yield _Wanted.PAUSE
        if self._expected is not _Expected.NOTHING:
            self._fail("ends too early")

    def _long_string(self) -> Generator[_Wanted, None, str]:
        """Read the string whose opening quote was just read."""
        text, window = Text(self._memory_left), SHORT
        while True:
            part = self._text[self._at : self._at + window]
            part = part[: whole(part)]
            try:
                piece, end = _decoder.raw_decode(f'"{part}"')
            except ValueError:
                self._fail("has a string with a control character or a wrong escape")
            text.add(piece)
            if end < len(part) + 2:
                self._at += end - 1
                self._memory_left -= text.memory
                return text.take()
            self._at += len(part)
            window = min(4 * window, SLICE_BYTES)
            if len(self._text) - self._at < 2 * _ESCAPE:
                if self._ended:
                    self._fail("ends in the middle of a string")
                yield _Wanted.TEXT

    def _word(self, word: str) -> Any:
        if word in _WORDS:
            return _WORDS[word]
        if len(word) > MAX_DIGITS:
            raise MalformedRequest(f"a number has more than {MAX_DIGITS} digits")
        number = _NUMBER.fullmatch(word)
        if number is None:
            self._fail()
        if not number["fraction"]:
            return int(word)
        value = float(word)
        if math.isinf(value):
            raise MalformedRequest("a number is too large")
        return value

    # The grammar.

    def _mark(self, mark: str) -> None:
        expected = self._expected
        match mark:
            case "{" | "[" if expected in (_Expected.VALUE, _Expected.FIRST_VALUE):
                self._begin({} if mark == "{" else [])
            case ":" if expected is _Expected.COLON:
                self._expected = _Expected.VALUE
            case "," if expected is _Expected.NEXT:
                self._expected = _Expected.NAME if isinstance(self._open[-1], dict) else _Expected.VALUE
            case "}" if expected is _Expected.FIRST_NAME or (
                expected is _Expected.NEXT and isinstance(self._open[-1], dict)
            ):
                self._end()
            case "]" if expected is _Expected.FIRST_VALUE or (
                expected is _Expected.NEXT and isinstance(self._open[-1], list)
            ):
                self._end()
            case _:
                self._fail()

    def _string(self, text: str) -> None:
        if self._expected not in (_Expected.NAME, _Expected.FIRST_NAME):
            self._add(text)
            return
        members = self._open[-1]
        if text in members:
            raise MalformedRequest("a name stands twice in an object")
        if len(members) == self._max_members:
            raise MalformedRequest(f"an object has more than {self._max_members} members")
        self._names.append(text)
        self._expected = _Expected.COLON

    def _begin(self, value: dict[str, Any] | list[Any]) -> None:
        if len(self._open) == self._max_depth:
            raise MalformedRequest("the JSON is nested too deep")
        self._count()
        self._open.append(value)
        self._expected = _Expected.FIRST_NAME if isinstance(value, dict) else _Expected.FIRST_VALUE

    def _end(self) -> None:
        self._place(self._open.pop())

    def _add(self, value: Any) -> None:
        if self._expected not in (_Expected.VALUE, _Expected.FIRST_VALUE):
            self._fail()
        self._count()
        self._place(value)

    def _count(self) -> None:
        if not self._values_left:
            raise TooLarge(f"the JSON has more than {self._max_values} values", code="too_many_values")
        self._values_left -= 1

    def _place(self, value: Any) -> None:
        if not self._open:
            self._value, self._expected = value, _Expected.NOTHING
            return
        outer = self._open[-1]
        if isinstance(outer, dict):
            outer[self._names.pop()] = value
        else:
            outer.append(value)
        self._expected = _Expected.NEXT

    def _fail(self, what: str = "") -> NoReturn:
        what = what or f"has something else where {self._expected.value} is expected"
        raise MalformedRequest(f"the body is not JSON: it {what}, at character {self._dropped + self._at}")


def whole(part: str) -> int:
    """Return how much of ``part``, which lies within a string, ends neither in an escape nor in a surrogate pair."""
    last = part.rfind("\\", max(0, len(part) - 2 * _ESCAPE + 1))
    if last < 0 or not _begins_escape(part, last):
        return len(part)
    end = last + (_ESCAPE if part[last + 1 : last + 2] == "u" else 2)
    if end < len(part) or (end == len(part) and not _HIGH_SURROGATE.match(part, last)):
        return len(part)
    before = last - _ESCAPE
    if end > len(part) and before >= 0 and _HIGH_SURROGATE.match(part, before) and _begins_escape(part, before):
        return before
    return last


def _begins_escape(part: str, at: int) -> bool:
    """Tell whether the backslash at ``at`` begins an escape, and is not escaped itself."""
    run = at + 1 - len(part[: at + 1].rstrip("\\"))
    return run % 2 == 1

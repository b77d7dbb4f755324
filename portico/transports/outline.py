"""The outline of a large event: where each value of its JSON lies, and how long it is.

It is made in steps, and no value is built: what is copied from the event later is the same to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass, field

WINDOW = 32 * 1024
TOKENS = 128
"""The work of one step: as many bytes of a string, or values. It takes some tenths of a millisecond."""
MAX_DEPTH = 64
MAX_MEMBERS = 1000
MAX_PARTS = 20_000
MAX_ALL = 100_000
"""The most members of the event, values in one of them, and values in all that are in the outline. Whatever lies
deeper or behind them is only there as a part of its container, which is `Part.opaque` then."""
SHALLOW, FIRST = 3, 64
"""The first members of so shallow a container are in the outline, whatever comes before it."""

TEXT, LIST, OBJECT = b'"[{'

_TOKEN = re.compile(
    rb"""[\s,:]*+(?:
        (?P<short>"[^"\\]{0,256}+")
        | (?P<text>")
        | (?P<open>[\[{])
        | (?P<close>[\]}])
        | (?P<other>[^\s,:"\[\]{}]++)
    )""",
    re.VERBOSE,
)
_BALANCED = re.compile(rb'[^"\[\]{}]*(?:(?:"[^"\\]*"|[\[{][^"\[\]{}]*[\]}])[^"\[\]{}]*)*')
"""Short strings, containers without strings and containers in them, and whatever lies between."""
_BRACKETS = b"[]{}"
_RUN = re.compile(rb'[^"\\]*(?:\\(?:u[0-9a-fA-F]{4}|[^u])[^"\\]*)*')
_ESCAPE_BYTES = 6


@dataclass(slots=True, eq=False)
class Part:
    """A value in the JSON, from ``start`` to ``end``. A member of an object begins with its name, ``at``.

    ``kind`` is the first byte of the value, and ``name`` is JSON, with its quotes; an item of a list has none. ``size``
    is the number of bytes of UTF-8 in a text; ``marks`` are places in a long one where it may be cut. If ``opaque``,
    a container has more than its ``parts``.
    """

    name: bytes
    at: int
    start: int
    kind: int
    end: int = 0
    parts: list[Part] = field(default_factory=list)
    opaque: bool = False
    size: int = 0
    marks: list[int] = field(default_factory=list)
    # The plan of a `CutEvent`, in bytes of the event that is sent.
    entry: int = 0
    """The size of its entry in ``cut``."""
    least: int = 0
    """The smallest size that it can get."""
    want: int = 0
    """The size with all its parts, but the heads of strings as short as they can get."""
    free: bool = False
    """If true, members of an object may be left out."""
    kept: list[Part] | None = None
    """The parts of a container that stay, if some do not."""
    touched: bool = False
    """If false, it stays as it is."""

    @property
    def size_here(self) -> int:
        """Its size in the event, with its name and a comma."""
        return self.end - self.at + 1

    @property
    def raw(self) -> int:
        """The bytes of a text, between its quotes."""
        return self.end - self.start - 2


class Outline:
    """The outline of ``data``, which is a JSON object. Complete once all ``steps`` were taken."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = self._all = MAX_ALL

    def steps(self) -> Generator[None, None, Part]:
        """Return the object. Each step takes some tenths of a millisecond. Raises ValueError if it is not JSON."""
        root: Part | None = None
        levels: list[Part] = []
        name, name_at = b"", -1
        at = count = 0
        while root is None or levels:
            count += 1
            if count % TOKENS == 0:
                yield
            token = _TOKEN.match(self.data, at)
            if token is None:
                raise ValueError(f"it is not JSON at {at}")
            kind, start, at = token.lastgroup, token.start(token.lastgroup or 0), token.end()
            if kind == "close":
                levels.pop().end = at
                continue
            part = Part(name, start if name_at < 0 else name_at, start, self.data[start], at)
            if kind == "short":
                part.size = part.raw
            elif kind == "text":
                part.end = at = yield from self._text(start, part)
            if levels and levels[-1].kind == OBJECT and name_at < 0:
                name, name_at = self.data[start:at], start
                continue
            name, name_at = b"", -1
            if root is None:
                root = part
            elif not self._add(levels, part):
                outer = levels.pop()
                outer.opaque = True
                outer.end = at = yield from self._behind(start, 1)
                continue
            if kind == "open":
                if len(levels) < MAX_DEPTH:
                    levels.append(part)
                else:
                    part.opaque = True
                    part.end = at = yield from self._behind(at, 1)
        return root

    def _add(self, levels: list[Part], part: Part) -> bool:
        """Add a part to the innermost container, if there is room for it in the outline."""
        outer = levels[-1]
        if len(levels) == 1:
            self._left = min(MAX_PARTS, self._all)
            if len(outer.parts) == MAX_MEMBERS:
                return False
        else:
            first = len(levels) <= SHALLOW and len(outer.parts) < FIRST
            if not (self._left or first) or not self._all:
                return False
            self._left = max(self._left - 1, 0)
            self._all -= 1
        outer.parts.append(part)
        return True

    def _text(self, start: int, part: Part | None = None) -> Generator[None, None, int]:
        """Return the end of the string that begins at ``start``, and note in ``part`` what is known of it then."""
        at, data = start + 1, self.data
        while True:
            run = _RUN.match(data, at, boundary(data, at + WINDOW))
            end = run.end() if run else at
            over = data[end : end + 1] == b'"'
            if part is not None:
                text = json.loads(b'"%b"' % data[at:end]) if data.find(b"\\", at, end) >= 0 else ""
                if not over and "\ud800" <= text[-1:] <= "\udbff":  # its other half is in the next window
                    text, end = text[:-1], end - _ESCAPE_BYTES
                part.size += len(text.encode("utf-8", "surrogatepass")) if text else end - at
            if over:
                return end + 1
            if end == at:
                raise ValueError(f"it is not JSON at {at}")
            at = end
            if part is not None:
                part.marks.append(at)
            yield

    def _behind(self, at: int, depth: int) -> Generator[None, None, int]:
        """Return the end of the container that is open at ``at``, ``depth`` levels up."""
        count = 0
        while depth:
            count += 1
            if count % TOKENS == 0:
                yield
            if balanced := _BALANCED.match(self.data, at, at + WINDOW):
                if balanced.end() - at > WINDOW // 2:
                    yield
                at = balanced.end()
            if at >= len(self.data):
                raise ValueError("it is not JSON: it ends too early")
            mark = self.data[at]
            if mark == TEXT:
                at = yield from self._text(at)
            elif mark in _BRACKETS:
                at += 1
                depth += 1 if mark in (LIST, OBJECT) else -1
        return at


def boundary(data: bytes, at: int) -> int:
    """Return the beginning of the character at ``at``, or the end of ``data``."""
    if at >= len(data):
        return len(data)
    while data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def pointer_token(name: bytes) -> bytes:
    """Return the name of a member, which is JSON, as part of a JSON pointer (RFC 6901), which is JSON too."""
    return _SPECIAL.sub(lambda found: _POINTED.get(found[0], found[0]), name[1:-1])


_SPECIAL = re.compile(rb"\\?[~/]|\\.")
_POINTED = {b"~": b"~0", b"/": b"~1", b"\\/": b"~1"}


def token_bytes(name: bytes) -> int:
    """Return a length that `pointer_token` does not exceed."""
    return len(name) - 2 + name.count(b"~") + name.count(b"/")

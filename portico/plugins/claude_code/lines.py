"""Lines of JSON, to the CLI and from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio.lowlevel

from portico.core.errors import InvalidRequest, MalformedRequest, TooLarge
from portico.core.json_reader import JsonReader
from portico.plugins.claude_code.framer import TAIL, Oversized

MAX_DEPTH = 200
"""The deepest nesting of a line's JSON. Python's decoder manages about 1,000 levels; its encoder manages fewer the
deeper the stack is.
"""
LONG = 256 * 1024
"""Lines longer than this, in bytes, are decoded piece by piece: Python's decoder would take a millisecond or more."""
MAX_VALUES = 200_000
"""The most values in such a line. A value takes up to some hundred bytes in memory."""


def encode_line(value: Mapping[str, Any]) -> bytes:
    """Encode one line. Raises `InvalidRequest`."""
    try:
        return encode(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"This can't be said in JSON: {error}.", code="invalid_content") from error


def encode(value: Any) -> bytes:
    """Encode with everything escaped, so that no character can end a line. Raises what `json` does."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


async def decode_in_turns(line: bytes) -> dict[str, Any] | Oversized | None:
    """Decode as `decode_line`, long lines too; return `Oversized` for a line with too many values."""
    if len(line) <= LONG:
        return decode_line(line)
    # In memory a text with one wide character may take four times as much as its line.
    reader = JsonReader(4 * len(line), MAX_VALUES, max_members=MAX_VALUES, max_depth=MAX_DEPTH)
    try:
        for _ in reader.feed(line):
            await anyio.lowlevel.checkpoint()
        value = reader.close()
    except MalformedRequest:
        return None
    except TooLarge:
        return Oversized(len(line), line[-TAIL:])
    return value if isinstance(value, dict) else None


def decode_line(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    # Brackets within strings are counted too: the count only spares most lines the walk.
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        return None
    return value


def _deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True

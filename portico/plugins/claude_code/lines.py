"""Lines of JSON, to the CLI and from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from portico.core.errors import InvalidRequest

MAX_DEPTH = 200
"""Nesting of a line's JSON. Python's decoder manages about 1,000 levels, its encoder fewer, the deeper the stack is."""


def encode_line(value: Mapping[str, Any]) -> bytes:
    """One line. Raises `InvalidRequest`."""
    try:
        return encode(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"This can't be said in JSON: {error}.", code="invalid_content") from error


def encode(value: Any) -> bytes:
    """Escaped throughout, so that no character in it can end a line. Raises what `json` does."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def decode_line(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    # Brackets within strings are counted too: it only spares most lines the walk.
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

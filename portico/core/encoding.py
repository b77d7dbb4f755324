"""JSON of what may be many megabytes: made piece by piece, so that everybody else has their turn meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio.lowlevel

from portico.core.events import encode_json

LONG = 64 * 1024
"""Characters of a text that is encoded piece by piece."""
PIECE = 32 * 1024


async def encode_in_turns(value: Any, encode: Callable[[Any], bytes] = encode_json) -> Sequence[bytes]:
    """The JSON of ``value`` in pieces. Raises what ``encode`` does, and `RecursionError`."""
    pieces: list[bytes] = []
    size = 0
    for piece in _pieces(value, encode):
        pieces.append(piece)
        size += len(piece)
        if size >= PIECE:
            size = 0
            await anyio.lowlevel.checkpoint()
    return pieces


def is_long(value: Any) -> bool:
    """Whether ``value``, which is JSON, holds a text that is `LONG`."""
    match value:
        case str():
            return len(value) > LONG
        case dict():
            return any(map(is_long, value.values()))
        case list():
            return any(map(is_long, value))
    return False


def _pieces(value: Any, encode: Callable[[Any], bytes]) -> Iterator[bytes]:
    if isinstance(value, str) and len(value) > LONG:
        yield b'"'
        for start in range(0, len(value), PIECE):
            yield encode(value[start : start + PIECE])[1:-1]
        yield b'"'
    elif isinstance(value, dict) and is_long(value):
        for number, (name, member) in enumerate(value.items()):
            yield b",%b:" % encode(name) if number else b"{%b:" % encode(name)
            yield from _pieces(member, encode)
        yield b"}"
    elif isinstance(value, list) and is_long(value):
        for number, member in enumerate(value):
            yield b"," if number else b"["
            yield from _pieces(member, encode)
        yield b"]"
    else:
        yield encode(value)

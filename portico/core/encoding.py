"""JSON encoding of values of many megabytes, piece by piece, so that the event loop serves everybody else meanwhile.

A thread would not help: Python's encoder lets nothing else run until it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import anyio.lowlevel

from portico.core.events import Draft, Event, encode_event, encode_json, event_members

LONG = 64 * 1024
"""The number of characters in a value above which it is encoded piece by piece."""
MANY = 1000
"""The number of values in a value above which it is encoded piece by piece."""
MAX_DEPTH = 1000
PIECE = 32 * 1024
RUN = 64
"""The number of members of an array or object that are encoded together, if they are small."""
STEPS = 16
"""The number of pieces made before other tasks may run. Each takes some hundredths of a millisecond."""


async def encode_in_turns(value: Any, encode: Callable[[Any], bytes] = encode_json) -> Sequence[bytes]:
    """Return the JSON of ``value`` in pieces. Raises as ``encode``, and `ValueError` if it is nested too deep."""
    pieces: list[bytes] = []
    size = steps = 0
    for piece in _pieces(value, encode):
        pieces.append(piece)
        size += len(piece)
        steps += 1
        if size >= PIECE or steps >= STEPS:
            size = steps = 0
            await anyio.lowlevel.checkpoint()
    return pieces


async def encode_event_in_turns(session_id: str, seq: int, time: str, draft: Draft) -> Event:
    """Do as `encode_event`, also for a large ``draft``."""
    if draft.content is not None or not is_large(draft.body):
        return encode_event(session_id, seq, time, draft)
    pieces = await encode_in_turns(event_members(session_id, seq, time, draft))
    return Event(seq, draft.body["type"], draft.turn_id, b"".join(pieces))


def is_large(value: Any) -> bool:
    """Tell quickly whether ``value``, which is JSON, holds more than `LONG` characters or more than `MANY` values."""
    characters, values = LONG, MANY
    found = [value]
    while found:
        value = found.pop()
        if isinstance(value, str):
            characters -= len(value)
        elif isinstance(value, dict):
            values -= len(value)
            if values >= 0:
                found += value.keys()
                found += value.values()
        elif isinstance(value, list | tuple):
            values -= len(value)
            if values >= 0:
                found += value
        if characters < 0 or values < 0:
            return True
    return False


def _pieces(value: Any, encode: Callable[[Any], bytes]) -> Iterator[bytes]:
    levels: list[Iterator[bytes | _Member]] = [iter([_Member(value)])]
    while levels:
        for part in levels[-1]:
            if isinstance(part, bytes):
                yield part
            elif not is_large(part.value):
                yield encode(part.value)
            elif isinstance(part.value, str):
                yield from _string(part.value, encode)
            elif len(levels) > MAX_DEPTH:
                raise ValueError("it is nested too deep, or in itself")
            else:
                levels.append(
                    _object(part.value, encode) if isinstance(part.value, dict) else _array(part.value, encode)
                )
                break
        else:
            levels.pop()


class _Member:
    """A value that is not encoded yet."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _string(text: str, encode: Callable[[Any], bytes]) -> Iterator[bytes]:
    yield b'"'
    for start in range(0, len(text), PIECE):
        yield encode(text[start : start + PIECE])[1:-1]
    yield b'"'


def _object(value: Mapping[Any, Any], encode: Callable[[Any], bytes]) -> Iterator[bytes | _Member]:
    separator = b"{"
    members = iter(value.items())
    while run := dict(islice(members, RUN)):
        if not is_large(run):
            yield separator + encode(run)[1:-1]
            separator = b","
            continue
        for name, member in run.items():
            yield separator + encode({name: 0})[1:-2]  # the encoder knows what a name may be
            yield _Member(member)
            separator = b","
    yield b"}"


def _array(value: Sequence[Any], encode: Callable[[Any], bytes]) -> Iterator[bytes | _Member]:
    separator = b"["
    for start in range(0, len(value), RUN):
        run = value[start : start + RUN]
        if not is_large(run):
            yield separator + encode(run)[1:-1]
            separator = b","
            continue
        for member in run:
            yield separator
            yield _Member(member)
            separator = b","
    yield b"]"

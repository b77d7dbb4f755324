"""Packed events: many of one session, compressed together."""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, groupby, pairwise, repeat

from portico.core.events import Event
from portico.plugins.sqlite_store.sqlite_failures import Damaged

BLOCK_BYTES = 256 * 1024
"""The largest size of a block before compression; a larger event gets a block of its own."""

_LEVEL = 6
_HEAD_SIZE_BYTES = 4


def pack(events: Sequence[Event]) -> bytes:
    """Pack events for `unpack`. Compressed are the head's size (4 bytes, big-endian), the head, and all ``data``.

    The head is JSON: ``[[[type, turn_id, count], ...], [size of data, ...]]``.
    """
    runs = [[*key, len(list(run))] for key, run in groupby(events, key=lambda event: (event.type, event.turn_id))]
    head = json.dumps([runs, [len(event.data) for event in events]], separators=(",", ":")).encode()
    body = b"".join(event.data for event in events)
    return zlib.compress(len(head).to_bytes(_HEAD_SIZE_BYTES, "big") + head + body, _LEVEL)


def unpack(first_seq: int, block: bytes) -> list[Event]:
    """Return the events from ``first_seq`` on. Raises `Damaged` for a block that `pack` did not make."""
    try:
        return _unpack(first_seq, block)
    except (zlib.error, ValueError, TypeError) as error:
        raise Damaged("a block of events") from error


def _unpack(first_seq: int, block: bytes) -> list[Event]:
    raw = zlib.decompress(block)
    start = _HEAD_SIZE_BYTES + int.from_bytes(raw[:_HEAD_SIZE_BYTES], "big")
    runs, sizes = json.loads(raw[_HEAD_SIZE_BYTES:start])
    types = chain.from_iterable(repeat(kind, count) for kind, _, count in runs)
    turn_ids = chain.from_iterable(repeat(turn_id, count) for _, turn_id, count in runs)
    ends = list(accumulate(sizes, initial=start))
    datas = [raw[begin:end] for begin, end in pairwise(ends)]
    return list(map(Event, range(first_seq, first_seq + len(sizes)), types, turn_ids, datas))


class BlockCache:
    """The blocks that were read last: a replaying reader needs one a few times, and often others need it too.

    A key (session, last seq) always means the same events, so nothing is ever stale.
    """

    def __init__(self, size: int = 8) -> None:
        self._size = size
        self._blocks: OrderedDict[tuple[int, int], list[Event]] = OrderedDict()

    def get(self, session: int, last_seq: int, load: Callable[[], list[Event]]) -> list[Event]:
        key = session, last_seq
        events = self._blocks.get(key)
        if events is not None:
            self._blocks.move_to_end(key)
            return events
        events = load()
        if len(events) > 1:  # an event that has its block to itself may be of any size
            self._blocks[key] = events
            if len(self._blocks) > self._size:
                self._blocks.popitem(last=False)
        return events

"""Events cut to a size that a client can take: the heads of their longest strings, and ``cut``, which names these."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import NotRequired, get_args, get_origin, get_type_hints

from portico.core.events import WRITTEN
from portico.core.json_reader import whole
from portico.transports.outline import LIST, OBJECT, TEXT, Outline, Part, boundary, pointer_token, token_bytes

HEAD_BYTES = 256
SMALL = 16 * 1024
"""An event of at most `SMALL` bytes keeps heads that are shorter than `HEAD_BYTES` in proportion."""
GUARDED_BYTES = 256
"""Ids up to this length are not cut, wherever they are."""
WORD_BYTES = 32
"""A string as short as this may be a word of the protocol."""
PAUSE = 256
"""The number of values that are looked at in one step."""

_HEAD = frozenset({b'"type"', b'"session_id"', b'"seq"', b'"time"', b'"turn_id"'})
_GUARDED = frozenset({b'"id"', b'"question"', b'"label"'})
_SHAPED = frozenset({b'"content"', b'"details"', b'"why"', b'"questions"', b'"suggestions"', b'"permission_rules"'})
"""Members of events whose objects have members that must be there."""
_FREE = frozenset({b'"input"', b'"structured_content"'})
"""Members of such objects in which none must be there."""
_MAPS = frozenset({b'"usage_by_model"'})
"""Members of events that are objects of such objects, none of which must be there."""
_NO_BLOCKS = b'{"type":"text","text":""}'
"""The block that stays of a list of blocks: an empty list would take a message back."""
_CUT = len('"cut":{}')


def _needed(body: type) -> tuple[bytes, frozenset[bytes]]:
    hints = get_type_hints(body, include_extras=True)
    (kind,) = get_args(hints["type"])
    names = [name for name, hint in hints.items() if get_origin(hint) is not NotRequired]
    return b'"%b"' % kind.encode(), frozenset(b'"%b"' % name.encode() for name in names)


_NEEDED: Mapping[bytes, frozenset[bytes]] = dict(map(_needed, WRITTEN))
"""The members that an event of each type must have, beside those of all events."""


class CutEvent:
    """An event of more than ``max_bytes``, on its way to at most as many.

    Its longest strings are cut to heads of the same length. If that is not enough, although the heads are short, lists
    keep their first items, and objects lose members, unless these must be there. The event itself loses optional
    members then, and if it must be, it keeps only those that all events have.
    """

    def __init__(self, data: bytes, max_bytes: int) -> None:
        self.data = data
        """The JSON of the event, cut once all `steps` were taken."""
        self._max_bytes = max_bytes
        self._floor = min(HEAD_BYTES, HEAD_BYTES * max_bytes // SMALL)
        self._digits = len(str(len(data)))
        self._texts: list[tuple[int, int]] = []
        self._level = 0
        self._made: list[bytes | memoryview] = []
        self._cut: list[bytes] = []
        self._done = 0

    def steps(self) -> Generator[None, None, None]:
        """Cut the event. Each step takes some tenths of a millisecond."""
        root = yield from Outline(self.data).steps()
        yield from self._plan(root)
        room = self._max_bytes - _CUT - (yield from self._measure(root))
        self._level = _level(self._texts, room)
        yield from self._write(root, b"")
        end = self._made.pop()
        self.data = b"".join([*self._made, b',"cut":{', b",".join(self._cut), b"}", end])

    def _pause(self) -> bool:
        self._done = (self._done + 1) % PAUSE
        return not self._done

    # The sizes of the parts.

    def _weigh(self, part: Part, pointer: int, free: bool) -> Generator[None, None, None]:
        """Set the sizes of a container, whose JSON pointer has the length ``pointer``, and of all its parts.

        ``free`` says whether objects in it may lose members.
        """
        least = want = part.start - part.at + (2 if part.parts else 3)  # brackets; each part counts its comma
        for index, child in enumerate(part.parts):
            place = pointer + 1 + (token_bytes(child.name) if child.name else len(str(index)))
            if child.kind in (LIST, OBJECT):
                child.free = free or child.name in _FREE
                yield from self._weigh(child, place, child.free)
            else:
                self._weigh_value(child, place, guarded=_guarded(child.name) and child.raw <= GUARDED_BYTES)
            least += child.least
            want += child.want
            if self._pause():
                yield
        part.entry = self._entry(pointer)
        part.want = part.size_here if part.opaque else want
        if part.kind == LIST or part.free:
            least = part.start - part.at + 3 + part.entry + (len(_NO_BLOCKS) if _is_blocks(part) else 0)
        elif part.opaque:
            least = part.size_here
        part.least = min(least, part.want)

    def _weigh_value(self, part: Part, pointer: int, *, guarded: bool) -> None:
        part.entry = self._entry(pointer)
        part.least = part.want = part.size_here
        if part.kind == TEXT and not guarded:
            self._shorten(part, self._floor)

    def _shorten(self, part: Part, head: int) -> None:
        part.least = part.want = min(part.size_here, part.size_here - part.raw + head + part.entry)

    def _entry(self, pointer: int) -> int:
        return pointer + len('"":,') + self._digits

    # The parts that stay.

    def _plan(self, root: Part) -> Generator[None, None, None]:
        kept = [part for part in root.parts if part.name != b'"cut"']
        for part in kept:
            place = 1 + token_bytes(part.name)
            if part.kind in (LIST, OBJECT):
                part.free = part.name not in _SHAPED
                yield from self._weigh(part, place, part.free and part.name not in _MAPS)
            else:
                guarded = part.name in _HEAD or _guarded(part.name) or part.name == b'"url"'
                self._weigh_value(part, place, guarded=guarded)
        root.entry = self._entry(0)
        room = self._max_bytes - 2 - _CUT - root.entry
        kind = next((self.data[part.start : part.end] for part in kept if part.name == b'"type"'), b"")
        needed = _NEEDED.get(kind, frozenset())
        kept = _dropping(kept, room, lambda part: part.name not in needed and not _guarded(part.name))
        if sum(part.least for part in kept) > room:
            for part in kept:
                if part.kind == TEXT and part.raw > WORD_BYTES and part.name not in _HEAD:
                    self._shorten(part, 0)
            kept = _dropping(kept, room, lambda part: True)
        if root.opaque or len(kept) < len(root.parts):
            root.kept = kept
        if sum(part.want for part in kept) > room:
            yield from self._share(kept, room)

    def _share(self, parts: Iterable[Part], room: int) -> Generator[None, None, None]:
        """Give each part what it needs at least, and divide the rest of ``room`` among those that are larger."""
        waiting = sorted(parts, key=lambda part: part.size_here - part.least)
        left = room - sum(part.least for part in waiting)
        for index, part in enumerate(waiting):
            given = min(part.size_here - part.least, max(left, 0) // (len(waiting) - index))
            left -= given
            if part.least + given < part.want:
                yield from self._fit(part, part.least + given)
            if self._pause():
                yield

    def _fit(self, part: Part, room: int) -> Generator[None, None, None]:
        """Choose what stays of a container that wants more than ``room``, but needs no more."""
        room -= part.start - part.at + 3
        if part.kind == OBJECT and not part.free:
            yield from self._share(part.parts, room)
            return
        room -= part.entry
        part.kept = kept = list[Part]()
        if part.kind == OBJECT:
            left = room
            for child in part.parts:
                if child.least <= left:
                    left -= child.least
                    kept.append(child)
                if self._pause():
                    yield
            yield from self._share(kept, room)
        else:
            for child in part.parts:
                if child.least > room:
                    break
                kept.append(child)
                if child.want > room:
                    yield from self._fit(child, room)
                    break
                room -= child.want
                if self._pause():
                    yield
        if len(kept) == len(part.parts) and not part.opaque:
            part.kept = None

    def _measure(self, part: Part) -> Generator[None, None, int]:
        """Return the size of a container, apart from the strings in it that may be cut, and note their sizes."""
        kept = _kept(part)
        size = part.start - part.at + (2 if kept else 3) + (0 if part.kept is None else part.entry)
        part.touched = part.kept is not None
        if part.touched and not kept and _is_blocks(part):
            size += len(_NO_BLOCKS)
        for child in kept:
            if child.kind in (LIST, OBJECT) and (child.kept is not None or not child.opaque):
                size += yield from self._measure(child)
            else:
                size += child.size_here
                if child.kind == TEXT and child.least < child.size_here:
                    child.touched = True
                    size -= child.raw
                    self._texts.append((child.raw, child.entry))
            part.touched = part.touched or child.touched
            if self._pause():
                yield
        return size

    # The cut event.

    def _write(self, part: Part, pointer: bytes) -> Generator[None, None, None]:
        data = memoryview(self.data)
        if not part.touched or (part.kind == TEXT and part.raw - part.entry <= self._level):
            self._made.append(data[part.at : part.end])
        elif part.kind == TEXT:
            self._made += data[part.at : self._head(part)], b'"'
            self._cut.append(b'"%b":%d' % (pointer, part.size))
        else:
            self._made.append(data[part.at : part.start + 1])
            kept = _kept(part)
            for index, child in enumerate(kept):
                if index:
                    self._made.append(b",")
                token = pointer_token(child.name) if child.name else b"%d" % index
                yield from self._write(child, b"%b/%b" % (pointer, token))
                if self._pause():
                    yield
            if not kept and _is_blocks(part):
                self._made.append(_NO_BLOCKS)
            if part.kept is not None:
                self._cut.append(b'"%b":%d' % (pointer, part.end - part.start))
            self._made.append(data[part.end - 1 : part.end])

    def _head(self, part: Part) -> int:
        """Return the end of the head of a text: a place between two characters."""
        size = self._level
        if part.name == b'"data"':
            size -= size % 4  # base64 stays base64
        start = part.start + 1
        known = bisect_right(part.marks, start + size)
        if known:
            size -= part.marks[known - 1] - start
            start = part.marks[known - 1]
        text = self.data[start : boundary(self.data, start + size)].decode()
        return start + len(text[: whole(text)].encode())


def _dropping(parts: list[Part], room: int, droppable: Callable[[Part], bool]) -> list[Part]:
    """Return ``parts`` without the largest ``droppable`` ones, as many as do not fit into ``room``."""
    over = sum(part.least for part in parts) - room
    dropped = set[int]()
    for part in sorted(parts, key=lambda part: -part.least):
        if over > 0 and part.name not in _HEAD and droppable(part):
            over -= part.least
            dropped.add(part.at)
    return [part for part in parts if part.at not in dropped]


def _guarded(name: bytes) -> bool:
    return name in _GUARDED or name.endswith(b'_id"')


def _is_blocks(part: Part) -> bool:
    return part.kind == LIST and not part.free and part.name == b'"content"'


def _kept(part: Part) -> list[Part]:
    return part.parts if part.kept is None else part.kept


def _level(texts: list[tuple[int, int]], room: int) -> int:
    """Return the length to which longer texts are cut, so that they take ``room`` bytes with their entries."""
    level, entries, count = room, sum(entry for _, entry in texts), len(texts)
    for raw, entry in sorted(texts, key=lambda text: text[0] - text[1]):
        level = (room - entries) // count
        if raw - entry > level:
            break
        room, entries, count = room - raw, entries - entry, count - 1
    return max(level, 0)

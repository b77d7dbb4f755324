"""A filter that cuts large frames of clients into fragments (RFC 6455, 5.4): nobody has to wait for the end of one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

PIECE_BYTES = 32 * 1024
"""The size of a fragment. It is a multiple of the 4 bytes after which a mask repeats."""

_FIN, _OPCODE, _MASKED, _LENGTH = 0x80, 0x0F, 0x80, 0x7F
_DATA = (0, 1, 2)
"""Opcodes: a continuation, text, bytes."""
_MAX_HEAD = 14


class Fragments:
    """A filter between the bytes of a connection and its frame parser, which keeps each frame until it is whole.

    Anything but a good data frame of more than `PIECE_BYTES` passes unchanged, for the parser to judge.
    """

    def __init__(self, admit: Callable[[int], bool]) -> None:
        """``admit`` tells whether a frame may have so many bytes. If not, it passes unchanged, and is refused later."""
        self._admit = admit
        self._head = bytearray()
        self._piece = bytearray()
        self._first = 0  # first byte of the frame that is being split: FIN, and the opcode of the next fragment
        self._mask = b""
        self.left = 0
        """Bytes of the payload of the current frame that are still to come."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; yield those for the parser. ``admit`` is called once all previous ones were yielded."""
        passing = bytearray()
        at = 0
        while at < len(data):
            if not self.left:
                start = len(self._head)
                self._head += data[at : at + _MAX_HEAD]
                if (size := _head_size(self._head)) is None:
                    break
                at += size - start
                head, self._head = bytes(self._head[:size]), bytearray()
                self.left = length = _length(head)
                if length > PIECE_BYTES and head[1] & _MASKED and head[0] & ~_FIN in _DATA:
                    yield bytes(passing)
                    passing.clear()
                    if self._admit(length):
                        self._first, self._mask = head[0], head[-4:]
                        continue
                passing += head
            else:
                taken = data[at : at + self.left]
                at += len(taken)
                self.left -= len(taken)
                if self._mask:
                    passing += self._split(taken)
                else:
                    passing += taken
        yield bytes(passing)

    def _split(self, taken: bytes) -> bytes:
        self._piece += taken
        made = bytearray()
        while self._piece and (not self.left or len(self._piece) >= PIECE_BYTES):
            payload = self._piece[:PIECE_BYTES]
            del self._piece[:PIECE_BYTES]
            last = not self.left and not self._piece
            first = self._first if last else self._first & ~_FIN
            made += struct.pack("!BBH", first, _MASKED | 126, len(payload)) + self._mask + payload
            self._first &= ~_OPCODE  # later fragments are continuations
        if not self.left:
            self._mask = b""
        return bytes(made)


def _head_size(head: bytearray) -> int | None:
    """Return the size of the frame's head; None if it is not whole yet."""
    if len(head) < 2:
        return None
    size = 2 + {126: 2, 127: 8}.get(head[1] & _LENGTH, 0) + (4 if head[1] & _MASKED else 0)
    return size if len(head) >= size else None


def _length(head: bytes) -> int:
    length = head[1] & _LENGTH
    if length < 126:
        return length
    return int.from_bytes(head[2:4] if length == 126 else head[2:10], "big")

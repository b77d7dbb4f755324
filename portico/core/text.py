"""A long text that is built from pieces, within a limit of memory."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Iterator

from portico.core.errors import TooLarge

WIDE_BYTES = 32 * 1024 * 1024
"""The memory that texts may take together if wide characters make them larger than their UTF-8. One wide character
makes every character of its text take up to four bytes. Texts with more bytes of UTF-8 may take as many."""


def memory_for(size: int) -> int:
    """Return the limit of memory for texts that are made of ``size`` bytes of UTF-8."""
    return max(size, min(4 * size, WIDE_BYTES))


class Text:
    """A text that grows in linear time. In memory each character takes 1, 2 or 4 bytes, as much as the widest one."""

    def __init__(self, max_memory: int) -> None:
        self._text = ""
        self._width = 1
        self._max_memory = max_memory

    @property
    def memory(self) -> int:
        return len(self._text) * self._width

    def add(self, piece: str) -> None:
        """Append ``piece``. Raises `TooLarge`."""
        width = max(self._width, _width(piece))
        if (len(self._text) + len(piece)) * width > self._max_memory:
            raise TooLarge("the texts are too long, with characters that take much memory")
        self._width = width
        # CPython extends a text in place if only a local variable refers to it.
        text, self._text = self._text, ""
        text += piece
        self._text = text

    def take(self) -> str:
        """Return the whole text, and forget it."""
        text, self._text = self._text, ""
        return text


def decode(pieces: Iterable[bytes], text: Text) -> Iterator[None]:
    """Add ``pieces``, which together are UTF-8, and yield after each. Raises `UnicodeDecodeError`, `TooLarge`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece in pieces:
        text.add(decoder.decode(piece))
        yield
    text.add(decoder.decode(b"", True))


def _width(piece: str) -> int:
    """Return the number of bytes that each character takes."""
    return 1 if piece.isascii() else (sys.getsizeof(piece + piece) - sys.getsizeof(piece)) // len(piece)

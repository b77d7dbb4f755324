"""A long text that is put together of pieces, within a limit of memory."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Iterator

from portico.core.errors import TooLarge

WIDE_BYTES = 32 * 1024 * 1024
"""Of memory that texts may take together, where one wide character has each of its text take up to four bytes. Where
there are more bytes to begin with, they may take as much."""


def memory_for(size: int) -> int:
    """How much memory the texts may take that ``size`` bytes of UTF-8 become."""
    return max(size, min(4 * size, WIDE_BYTES))


class Text:
    """Grows in time linear to its length. In memory a character takes 1, 2 or 4 bytes, as its widest one does."""

    def __init__(self, max_memory: int) -> None:
        self._text = ""
        self._width = 1
        self._max_memory = max_memory

    @property
    def memory(self) -> int:
        return len(self._text) * self._width

    def add(self, piece: str) -> None:
        """Raises `TooLarge`."""
        width = max(self._width, _width(piece))
        if (len(self._text) + len(piece)) * width > self._max_memory:
            raise TooLarge("the texts are too long, with characters that take much memory")
        self._width = width
        # CPython lengthens a text in its place where nobody but a local variable has it.
        text, self._text = self._text, ""
        text += piece
        self._text = text

    def take(self) -> str:
        """The whole text, which is not kept."""
        text, self._text = self._text, ""
        return text


def decode(pieces: Iterable[bytes], text: Text) -> Iterator[None]:
    """Add ``pieces``, which together are UTF-8, with a pause behind each. Raises `UnicodeDecodeError`, `TooLarge`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece in pieces:
        text.add(decoder.decode(piece))
        yield
    text.add(decoder.decode(b"", True))


def _width(piece: str) -> int:
    """Bytes that each character takes."""
    return 1 if piece.isascii() else (sys.getsizeof(piece + piece) - sys.getsizeof(piece)) // len(piece)

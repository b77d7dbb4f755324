"""Bytes in, lines out: chunks from a pipe, cut at line feeds. Sans-IO."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_LINE = 32 * 1024 * 1024
"""The longest line in bytes. The CLI writes a whole message as one line; replies of 20 MiB have to pass."""


TAIL = 8 * 1024
"""Bytes that are kept of a longer line. The fields of a result line come after its text, about 1 KiB before its end."""


@dataclass(frozen=True, slots=True)
class Oversized:
    """A stand-in for a line of ``size`` bytes that was too long. It was dropped, except for its ``tail``."""

    size: int
    tail: bytes = field(default=b"", compare=False)


class LineFramer:
    """A cutter of a stream of bytes into lines, in time linear to its length.

    A line longer than ``max_line`` bytes is dropped while it arrives, so that memory stays bounded, and yields
    `Oversized` once it ends. Empty lines are skipped, and a carriage return before the line feed is removed.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._size = 0  # of the current line, dropped bytes included

    def feed(self, chunk: bytes) -> list[bytes | Oversized]:
        """Take the next bytes; return the lines that they complete, in order."""
        *ends, rest = chunk.split(b"\n")
        lines: list[bytes | Oversized] = []
        for end in ends:
            self._add(end)
            line = self.close()
            if line:
                lines.append(line)
        self._add(rest)
        return lines

    def close(self) -> bytes | Oversized | None:
        """End the stream: return the rest without a line end, or None. A new stream may follow."""
        parts, size = self._parts, self._size
        self._parts, self._size = [], 0
        if size > self._max_line:
            return Oversized(size, b"".join(parts))
        return b"".join(parts).removesuffix(b"\r") or None

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max_line:
            self._parts = [b"".join([*self._parts, part])[-TAIL:]]
        elif part:
            self._parts.append(part)

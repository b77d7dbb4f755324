"""The output of pieces: the answer on one stream, notes about it on another, or on the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.text import Text

from portico.cli.client.transcript import Kind, Piece, printable

STYLES: dict[Kind, tuple[str, str]] = {
    "query": ("> ", "bold"),
    "begun": ("- the agent begins a turn: ", "bold"),
    "tool": ("* ", "dim"),
    "result": ("  ", "dim"),
    "notice": ("- ", "dim"),
    "error": ("error: ", "red"),
}


class Screen:
    """A pair of streams. ``out`` gets the answer's text, ``notes`` everything else; without ``details`` only what is
    needed.

    Writing blocks, on purpose: a stopped terminal, or a pager that is not read on, holds back the stream behind it.
    """

    def __init__(self, out: TextIO, notes: TextIO, *, details: bool) -> None:
        self._out = out
        self._encoding = (out.encoding or "utf-8", notes.encoding or "utf-8")
        self._notes = Console(file=notes, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._details = details
        self._together = out is notes or (out.isatty() and notes.isatty())
        self._open: Kind | Literal["prompt"] | None = None  # the kind of the unfinished line
        self._broken = False  # a line of text was broken for a note

    def show(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if piece.kind == "text":
                self._text(piece.text)
            elif piece.kind == "thinking":
                if self._details:
                    self._thinking(piece.text)
            elif self._details or piece.kind == "error":
                mark, style = STYLES[piece.kind]
                self.note(mark + piece.text, style)

    def note(self, text: str, style: str = "dim", *, end: str = "\n") -> None:
        """Print a line of ours."""
        self.break_line()
        self._notes.print(Text(self._clean(text), style), end=end)
        self._notes.file.flush()

    @contextmanager
    def asking(self, prompt: str) -> Iterator[None]:
        """Print ``prompt``, and let the user type behind it. What is shown meanwhile begins a line of its own."""
        self.note(prompt, "yellow", end="")
        self._open = "prompt"
        try:
            yield
        finally:
            if self._open == "prompt":
                self._open = None

    def break_line(self) -> None:
        if self._open in ("thinking", "prompt"):
            self._notes.print()
        elif self._open == "text" and self._together:
            self._write("\n")
            self._broken = True
        else:
            return
        self._open = None

    def raw(self, text: str) -> None:
        """Print ``text`` unchanged, to ``out``."""
        self._write(text)

    def json(self, value: Mapping[str, Any]) -> None:
        """Print ``value`` on one line, to ``out``; exact, whatever characters it contains."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if _encodable(text, self._encoding[0]) != text:
            text = json.dumps(value, separators=(",", ":"))
        self._write(text + "\n")

    def _text(self, text: str) -> None:
        if self._open in ("thinking", "prompt"):
            self.break_line()
        broken, self._broken = self._broken, False
        if broken and text == "\n":
            return  # it already has its line break
        self._write(printable(text) if self._out.isatty() else text)
        self._open = None if text.endswith("\n") else "text"

    def _thinking(self, text: str) -> None:
        if self._open in ("text", "prompt"):
            self.break_line()
        self._notes.print(Text(self._clean(text), "dim italic"), end="")
        self._notes.file.flush()
        self._open = None if text.endswith("\n") else "thinking"

    def _write(self, text: str) -> None:
        self._out.write(_encodable(text, self._encoding[0]))
        self._out.flush()

    def _clean(self, text: str) -> str:
        return _encodable(printable(text), self._encoding[1])


def _encodable(text: str, encoding: str) -> str:
    return text.encode(encoding, "replace").decode(encoding)


def trouble(screen: Screen, patience: float) -> Callable[[str | None], None]:
    """Make a function that shows the user what `Client` reports about its streams."""

    def tell(reason: str | None) -> None:
        if reason is None:
            screen.note("connected again", "yellow")
        else:
            screen.note(f"{reason}. Trying for {patience:.0f} seconds; Ctrl-C gives up", "yellow")

    return tell

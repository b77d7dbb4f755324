"""A turn as a person sees it: events in, pieces of text out. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SHORT = 100
"""Characters that are shown of a tool's input or result."""
TELLING = ("command", "file_path", "notebook_path", "path", "pattern", "url", "query", "description", "prompt", "skill")
"""The inputs of a tool that say most; the first one present is shown."""

TAKEN_BACK = "the agent takes back what it has just said"

Kind = Literal["text", "thinking", "query", "begun", "tool", "result", "notice", "error"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of output. ``text`` and ``thinking`` continue the last piece, line breaks and all; others take a line
    each.
    """

    kind: Kind
    text: str


class Transcript:
    """The pieces of one conversation. What subagents say is shown in short, and what they do is indented."""

    def __init__(self) -> None:
        self._streamed: dict[tuple[Any, int], str] = {}
        self._unfinished: tuple[Any, int] | None = None  # the text block whose last line is open
        self._half = ""  # half of a surrogate pair: the agent may cut a character in two
        self._aside: list[Piece] = []  # of others at work, until the agent has ended its sentence

    def feed(self, event: Mapping[str, Any]) -> list[Piece]:
        """Return the pieces that are to be shown now. Events of unknown type add none."""
        pieces = self._feed(event)
        if self._unfinished and (event.get("parent_tool_use_id") or event["type"] == "task"):
            self._aside += pieces
            return []
        if not self._unfinished:
            pieces += self._aside
            self._aside = []
        return pieces

    def _feed(self, event: Mapping[str, Any]) -> list[Piece]:
        match event["type"]:
            case "delta" if not event.get("parent_tool_use_id"):
                return self._delta(event)
            case "message" if event.get("role") == "assistant":
                return _of_subagent(event) if event.get("parent_tool_use_id") else self._message(event)
            case "thinking" if not event.get("parent_tool_use_id"):
                return [Piece("thinking", event["content"])]
            case "query":
                kind: Kind = "begun" if event.get("principal", "") is None else "query"  # by the agent itself
                return [Piece(kind, shorten(_plain(event["content"]), 10 * SHORT))]
            case "tool_use":
                return [Piece("tool", self._indented(event, describe_tool(event["tool_name"], event["input"])))]
            case "tool_result":
                denied = "denied" in event.get("details", {})
                mark = "denied: " if denied else "failed: " if event.get("is_error") else ""
                return [Piece("result", self._indented(event, mark + shorten(_plain(event["content"]))))]
            case "task" if event["state"] != "progress":
                end = f" ({event['outcome']})" if event.get("outcome") else ""
                return [Piece("notice", f"task {event['state']}{end}: {shorten(event.get('description', ''))}")]
            case "notice":
                return [Piece("notice", describe_notice(event["name"], event.get("detail")))]
            case "error":
                return [Piece("error", f"{event['error']} ({event['code']})")]
            case "complete":
                return self._end_line()
        return []

    def _delta(self, event: Mapping[str, Any]) -> list[Piece]:
        key = (event.get("message_id"), event.get("index", 0))
        pieces = self._end_line() if self._unfinished != key else []
        text = _joined(self._half + event["content"])
        self._half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        text = text.removesuffix(self._half)
        if not text:
            return pieces
        self._streamed[key] = self._streamed.get(key, "") + text
        self._unfinished = key
        return [*pieces, Piece("text", text)]

    def _message(self, event: Mapping[str, Any]) -> list[Piece]:
        if not event["content"]:
            self._streamed.clear()
            return [*self._end_line(), Piece("notice", TAKEN_BACK)]
        pieces: list[Piece] = []
        for number, block in enumerate(event["content"], event.get("index", 0)):
            if block.get("type") != "text":
                continue
            key = (event.get("message_id"), number)
            text, streamed = _joined(block["text"]), self._streamed.pop(key, "")
            rest = text.removeprefix(streamed)
            if not text.startswith(streamed) or (rest and self._unfinished != key):
                rest = text  # streamed text can't be taken back: print the whole again, on a new line
            if rest:
                pieces += self._end_line() if self._unfinished != key or rest == text else []
                pieces.append(Piece("text", rest))
                self._unfinished = key
            if self._unfinished == key:
                self._streamed[key] = text
                pieces += self._end_line()
                del self._streamed[key]
        return pieces

    def _end_line(self) -> list[Piece]:
        key, self._unfinished, self._half = self._unfinished, None, ""
        return [Piece("text", "\n")] if key and not self._streamed.get(key, "").endswith("\n") else []

    @staticmethod
    def _indented(event: Mapping[str, Any], text: str) -> str:
        return f"  {text}" if event.get("parent_tool_use_id") else text


def _of_subagent(event: Mapping[str, Any]) -> list[Piece]:
    if not (text := "".join(block["text"] for block in event["content"] if block.get("type") == "text")):
        return []
    return [Piece("notice", f"{event.get('subagent', 'a subagent')}: {shorten(text, 5 * SHORT)}")]


def describe_tool(name: str, tool_input: Mapping[str, Any]) -> str:
    """Describe a tool use in one line."""
    for key in TELLING:
        if isinstance(value := tool_input.get(key), str):
            return f"{name} {shorten(value)}"
    return f"{name} {shorten(json.dumps(tool_input, ensure_ascii=False))}" if tool_input else name


def describe_notice(name: str, detail: Any) -> str:
    words = name.replace("_", " ")
    if detail in (None, "", {}, []):
        return words
    return f"{words}: {shorten(detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False))}"


def shorten(text: str, length: int = SHORT) -> str:
    """Return ``text`` in one line of at most ``length`` characters."""
    line = re.sub(r"\s+", " ", text[: 2 * length + 1000]).strip()
    return line if len(line) <= length and len(text) <= 2 * length + 1000 else line[: length - 3] + "..."


def printable(text: str) -> str:
    """Return ``text`` without terminal control characters: its author may be hostile."""
    return _CONTROL.sub("\ufffd", text)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _joined(text: str) -> str:
    """Join surrogate halves to the character that they form."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _plain(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(block.get("text", f"[{block.get('type', 'block')}]")) for block in content)

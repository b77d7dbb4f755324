"""The script of an echo: from a query to a `Saying`. Sans-IO.

A query is text, which comes back word by word and then as a whole in a `message`; or it is a JSON object:

    {"deltas": 100, "size": 20, "gap": 0.01}
    {"ask": {"tool_name": "Write", "input": {"file_path": "a"}}}
    {"tell": "model"}
    {"mode": "acceptEdits"}

- `deltas`: the number of pieces of text; null for no end. Default 1. No `message` follows: nobody keeps them all
- `size`: bytes of each piece, at most 16 MiB. Default 5
- `gap`: seconds after each piece. Default 0
- `fail`: true ends the turn in an error
- `ask`: first uses this tool, which needs permission. The tool is an echo too: its result is its input. The
  `suggestions` are the rules that the request suggests to allow from now on
- `mode`: before anything else, switches to this permission mode
- `give`: the structured output, if the session or the turn has an output schema
- `tell`: says one of the agent's options, as text or else as JSON: `model`, `permission_mode`, `system_prompt` ...

An object with any other key or value is plain text. A list of content blocks stands for its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import repeat
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from portico.core.agent import AgentOptions
from portico.core.errors import InvalidRequest
from portico.core.events import Content

MAX_SIZE = 16 * 1024 * 1024

_WORD = re.compile(r"\s*\S+|\s+")
_NOTATION = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ToolCall(BaseModel):
    model_config = _NOTATION

    tool_name: str
    input: dict[str, Any] = {}
    suggestions: list[dict[str, Any]] = []


class Script(BaseModel):
    """The JSON object. Its fields are the keys of the notation."""

    model_config = _NOTATION

    deltas: int | None = Field(default=1, ge=0)
    size: int = Field(default=5, ge=0, le=MAX_SIZE)
    gap: float = Field(default=0.0, ge=0)
    fail: bool = False
    ask: ToolCall | None = None
    tell: str | None = None
    mode: str | None = None
    give: dict[str, Any] | None = None

    @field_validator("tell")
    @classmethod
    def _is_an_option(cls, name: str | None) -> str | None:
        if name is not None and name not in [field.name for field in fields(AgentOptions)]:
            raise ValueError("there is no such option")
        return name


@dataclass(frozen=True, slots=True)
class Saying:
    """An answer: ``pieces`` are said with a ``gap`` of seconds after each; ``text`` is the whole, if it is kept."""

    pieces: Iterable[str]
    text: str | None = None
    gap: float = 0.0
    fail: bool = False
    ask: ToolCall | None = None
    mode: str | None = None
    give: dict[str, Any] | None = None


def read_query(content: Content, options: AgentOptions) -> Saying:
    """Read a query. Raises `InvalidRequest` (``invalid_content``) unless it is text, or a list of text and image
    blocks.
    """
    text = _text(content)
    script = _script(text)
    if script is None:
        return Saying(_WORD.findall(text), text)
    if script.tell is not None:
        value = getattr(options, script.tell)
        told = value if isinstance(value, str) else json.dumps(value, default=dict)
        return Saying(_WORD.findall(told), told, script.gap, script.fail, script.ask, script.mode)
    piece = "x" * script.size
    pieces = repeat(piece) if script.deltas is None else repeat(piece, script.deltas)
    return Saying(pieces, None, script.gap, script.fail, script.ask, script.mode, script.give)


def _script(text: str) -> Script | None:
    if not text.startswith("{"):
        return None
    try:
        return Script.model_validate_json(text)
    except (ValidationError, UnicodeEncodeError):
        return None


def _text(content: Content) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [_block(block) for block in content]
        if None not in texts:
            return "".join(filter(None, texts))
    raise InvalidRequest("a query is text, or a list of blocks of text, images and documents", code="invalid_content")


def _block(block: object) -> str | None:
    """Return the text of a block, or None if it is not a block."""
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "document"}:
            return ""
        case _:
            return None

"""The script of the model: from the conversation to the `Step` that is its next reply.

Sans-IO. The notation is described in `portico.plugins.demo.model`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
# Texts that the CLI writes in the user's name: they are not queries.
SYNTHETIC = (
    "[Request interrupted by user",
    "Output token limit hit",
    "Your response above was stopped by a safety",
    "Your response above was cut off mid-stream",
    "The model's tool call could not be parsed",
    "[structured-output-enforce]",
    "[Image: ",
    "[Image removed: ",
)
# A user's message during a turn reaches the API inside a message of role `system`.
STEERED = re.compile(r"The user sent a new message while you were working:\n(.*?)\n\nThis is how Claude", re.DOTALL)
OUTPUT_TOOL = "StructuredOutput"
SHORT = 200  # characters; in longer texts, such as the CLI's prompt to compact, plain words have no effect
STOP_REASON = Literal["end_turn", "max_tokens", "model_context_window_exceeded", "refusal", "stop_sequence", "tool_use"]
OPENING = re.compile(r"\[\[(?=\s*\{)")


class ScriptError(ValueError):
    """The conversation can't be answered, for example because a directive is not valid; the message says why."""


class ToolUse(BaseModel):
    """One tool call of a reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    input: dict[str, Any] = {}


class Step(BaseModel):
    """One reply of the model. Its fields are the keys of the notation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    think: str | None = None
    say: str | None = None
    words: int | None = Field(default=None, ge=0)
    size: int | None = Field(default=None, ge=0)
    chunk: int | None = Field(default=None, ge=1)
    gap_ms: float = Field(default=0, ge=0)
    tool: tuple[ToolUse, ...] = ()
    usage: dict[str, int | dict[str, int]] = {}
    stop_reason: STOP_REASON | None = None
    stop_details: dict[str, Any] | None = None
    error: int | None = Field(default=None, ge=400, le=599)
    error_type: str | None = None
    error_text: str = "The script asks for this error."
    headers: dict[str, str] = {}
    cut: int | None = Field(default=None, ge=0)
    stall: int | None = Field(default=None, ge=0)
    times: int | None = Field(default=None, ge=1)

    @field_validator("tool", mode="before")
    @classmethod
    def _one_tool_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else value


def next_step(messages: list[dict[str, Any]], output_schema: Mapping[str, Any] | None = None) -> tuple[str, int, Step]:
    """Return the user text to answer, the number of replies it has had, and the reply that is due.

    With an ``output_schema``, plain words get a structured output that fits it, as far as that is simple.

    Raises:
        ScriptError: the text has a directive that is not valid, or there is no user text at all.
    """
    if not any(message.get("role") == "user" for message in messages):
        raise ScriptError("messages: at least one of role user is required")
    text, replies = asked(messages)
    steps = parse(text)
    if steps is None:
        steps = _plain(text) if output_schema is None else [Step(tool=(_output(output_schema),))]
    if replies < len(steps):
        return text, replies, steps[replies]
    # The CLI also sends notes in messages of role `system`, even after the user's last message.
    last = next(message for message in reversed(messages) if message.get("role") == "user")
    refused = any(b.get("is_error") for b in _blocks(last) if b.get("type") == "tool_result")
    return text, replies, Step(say="All right, I have left it alone." if refused else "Done.")


def asked(messages: list[dict[str, Any]]) -> tuple[str, int]:
    """Return the last text that a user really wrote, and the number of replies after it."""
    replies = 0
    for message in reversed(messages):
        if message.get("role") == "assistant":
            replies += 1
            continue
        for block in reversed(_blocks(message)):
            text = str(block.get("text", ""))
            if message.get("role") == "system":
                steered = STEERED.search(text)
                text = steered[1] if steered else ""
            text = REMINDER.sub("", text).strip()
            if text and not text.startswith(SYNTHETIC):
                return text, replies
    return "", replies


def parse(text: str) -> list[Step] | None:
    """Return the steps of the text's `[[{...}, ...]]` directives, in order; None if it has none."""
    steps: list[Step] = []
    position = 0
    found = False
    while opening := OPENING.search(text, position):
        found = True
        try:
            # From the second bracket on it is a JSON array, whatever brackets its strings contain.
            items, position = json.JSONDecoder().raw_decode(text, opening.start() + 1)
            steps += [Step.model_validate(item) for item in items]
        except json.JSONDecodeError as error:
            raise ScriptError(f"a directive is not JSON: {error}") from None
        except ValidationError as error:
            mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ScriptError(f"a directive is wrong: {mistakes}") from None
        if not text.startswith("]", position):
            raise ScriptError("a directive does not end in ]]")
    return steps if found else None


QUESTIONS = [
    {
        "question": "Which colour?",
        "header": "Colour",
        "multiSelect": False,
        "options": [
            {"label": "Red", "description": "like a rose"},
            {"label": "Blue", "description": "like the sea"},
        ],
    },
    {
        "question": "Which sizes?",
        "header": "Sizes",
        "multiSelect": True,
        "options": [{"label": label, "description": f"the size {label}"} for label in ("S", "M", "L")],
    },
]
"""The questions that the model asks at plain words."""


def _plain(text: str) -> list[Step]:
    """Return the reply to a newcomer's plain words."""
    lower = text.lower() if len(text) <= SHORT else ""
    words = set(re.findall(r"[a-z]+", lower))
    if words & {"fail", "error"}:
        return [Step(error=400)]
    if "write a file" in lower or "tool" in words:
        tool = ToolUse(name="Write", input={"file_path": "hello.txt", "content": "Hello from Portico.\n"})
        return [Step(say="I'd like to write hello.txt. May I?", tool=(tool,), gap_ms=20)]
    if "ask me a question" in lower:
        return [Step(tool=(ToolUse(name="AskUserQuestion", input={"questions": QUESTIONS}),), gap_ms=20)]
    echo = text if len(text) <= SHORT else text[:SHORT] + "..."
    say = (
        f'You said: "{echo}" I am a scripted model inside Portico; around me everything is real. '
        'Ask me to "think", to "write a file", which needs your permission, or to "fail"; or say "ask me a question".'
    )
    think = "The word is think, so I show what thinking looks like: it comes before the answer, bit by bit."
    return [Step(think=think if words & {"think", "thinking"} else None, say=say, gap_ms=20)]


def _output(schema: Mapping[str, Any]) -> ToolUse:
    made = _example(schema)
    return ToolUse(name=OUTPUT_TOOL, input=made if isinstance(made, dict) else {})


def _example(schema: Any) -> Any:
    """Return a value for a simple JSON Schema."""
    match schema:
        case {"const": value} | {"enum": [value, *_]}:
            return value
        case {"type": "object"}:
            return {name: _example(member) for name, member in schema.get("properties", {}).items()}
        case {"type": "array"}:
            return [_example(schema.get("items"))]
        case {"type": "integer" | "number"}:
            return schema.get("minimum", 1)
        case {"type": "boolean"}:
            return True
        case {"type": "null"}:
            return None
    return "a text"


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []

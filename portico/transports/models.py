"""The bodies that clients may send, as models that check them.

Values that an agent is started with must fit into an argument of a process, whether they become one or not: Linux
takes at most 128 KiB (MAX_ARG_STRLEN, execve(2)), and no NUL.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from portico.core.agent import Decision
from portico.core.events import Content
from portico.core.requests import NewFork, NewSession, NewTurn, SessionChanges
from portico.core.tool_rule import MAX_LENGTH, PATTERN, ToolRule
from portico.transports.content_blocks import Query, told
from portico.transports.output_schemas import OUTPUT_SCHEMA, output_schema

KIB = 1024
MAX_DEPTH = 32
MAX_TTL = 86_400
"""The longest life of a ticket: a day."""


NO_NUL = r"^[^\x00]*$"


def _passable(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "must not hold NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("surrogate", "must not hold half of a surrogate pair") from None
    return text


def _argument(text: str) -> str:
    if len(_passable(text).encode()) > 100 * KIB:
        raise PydanticCustomError("too_long", "must be at most 100 KiB")
    return text


def _tool_rule(text: str) -> str:
    try:
        ToolRule.parse(_passable(text))
    except ValueError as error:
        raise PydanticCustomError("tool_rule", "{mistake}", {"mistake": str(error)}) from None
    return text


def _integral(value: Any) -> Any:
    # JSON has no integers: to JSON Schema 1.0 is one, and some languages write them so.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bounded(max_bytes: int, *, separators: tuple[str, str] = (",", ":")) -> AfterValidator:
    """Limit JSON of any shape: to so many bytes as written, and to a depth that nobody exceeds by hand."""

    def checked(value: dict[str, Any]) -> dict[str, Any]:
        try:
            size = len(json.dumps(value, separators=separators))
        except RecursionError:
            size = 0
        if size > max_bytes:
            raise PydanticCustomError("too_long", f"must be at most {max_bytes // KIB} KiB as JSON")
        level: list[Any] = [value]
        for _ in range(MAX_DEPTH):
            level = [child for node in level if isinstance(node, dict | list) for child in _children(node)]
        if level:
            raise PydanticCustomError("too_deep", f"must be nested at most {MAX_DEPTH} deep")
        return value

    return AfterValidator(checked)


def _children(node: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node


def _arguments(texts: list[str]) -> list[str]:
    _argument(",".join(texts))
    return texts


def _answer_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<texts>" if isinstance(value, list) else None


def _servers_form(value: Any) -> str | None:
    if isinstance(value, list):
        return "<names>"
    return "<servers>" if isinstance(value, dict) else None


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
TurnId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
SuggestionId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
RequestId = Annotated[str, StringConstraints(min_length=1)]
EventId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")]
LastEventId = Annotated[str, StringConstraints(pattern=r"^[0-9]{0,18}$")]
_Passable = Annotated[str, AfterValidator(_passable), told(pattern=NO_NUL)]
Line = Annotated[_Passable, StringConstraints(min_length=1, max_length=256)]
PermissionMode = Literal["default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"]
Folder = Annotated[_Passable, StringConstraints(min_length=1, max_length=4096)]
Prompt = Annotated[str, AfterValidator(_argument), told(pattern=NO_NUL, maxLength=100 * KIB)]
Budget = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
OneRule = Annotated[str, AfterValidator(_tool_rule), told(pattern=PATTERN, maxLength=MAX_LENGTH)]
ToolRules = Annotated[list[OneRule], Field(max_length=512, fail_fast=True), AfterValidator(_arguments)]
WHOLE = BeforeValidator(_integral)
"""For whole numbers. It must come after their limits, or pydantic would leave these out of the schema."""
# Measured with blanks after separators, as in the agent's command line.
OwnServers = Annotated[
    dict[Name, dict[str, Any]],
    Field(max_length=64),
    _bounded(100 * KIB, separators=(", ", ": ")),
    told(additionalProperties=False),
]
McpServers = Annotated[
    Annotated[list[Name], Field(max_length=64), Tag("<names>")] | Annotated[OwnServers, Tag("<servers>")],
    Discriminator(
        _servers_form, custom_error_type="servers", custom_error_message="must be a list of names or an object"
    ),
]


OutputSchema = Annotated[dict[str, Any], _bounded(32 * KIB), AfterValidator(output_schema), told(**OUTPUT_SCHEMA)]
Effort = Literal["low", "medium", "high", "xhigh", "max"]


class _Strict(BaseModel):
    """JSON has types: "1" is not a number in it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class SubagentBody(_Strict):
    """A subagent. Without ``tools`` it has those of the session, without ``model`` its model."""

    description: Annotated[_Passable, StringConstraints(min_length=1, max_length=4096)]
    prompt: Prompt
    tools: Annotated[list[Line], Field(max_length=128)] | None = None
    disallowed_tools: Annotated[list[Line], Field(max_length=128)] | None = None
    model: Line | None = None
    max_turns: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = None


def _agents(value: dict[str, SubagentBody]) -> dict[str, SubagentBody]:
    if sum(len(agent.model_dump_json()) for agent in value.values()) > 256 * KIB:
        raise PydanticCustomError("too_long", "must be at most 256 KiB as JSON")
    return value


Agents = Annotated[
    dict[Name, SubagentBody], Field(max_length=32), AfterValidator(_agents), told(additionalProperties=False)
]


class SessionBody(_Strict):
    """The options of a new session. All are optional; null counts as absent."""

    session_id: Name | None = None
    title: Line | None = None
    driver: Name | None = None
    model: Line | None = None
    cwd: Folder | None = None
    system_prompt: Prompt | None = None
    append_system_prompt: Prompt | None = None
    permission_mode: PermissionMode | None = None
    allowed_tools: ToolRules | None = None
    disallowed_tools: ToolRules | None = None
    mcp_servers: McpServers | None = None
    max_turns: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = None
    setting_sources: Annotated[list[Literal["project", "local"]], Field(max_length=2)] | None = None
    budget_usd: Budget | None = None
    metadata: Annotated[dict[str, Any], _bounded(16 * KIB)] | None = None
    output_schema: OutputSchema | None = None
    effort: Effort | None = None
    fallback_model: Line | None = None
    add_dirs: Annotated[list[Folder], Field(max_length=16)] | None = None
    agents: Agents | None = None

    def request(self) -> NewSession:
        rules = {
            "allowed_tools": tuple(self.allowed_tools or ()),
            "disallowed_tools": tuple(self.disallowed_tools or ()),
            "setting_sources": tuple(self.setting_sources or ()),
            "add_dirs": tuple(self.add_dirs or ()),
        }
        if isinstance(self.mcp_servers, list):
            rules["mcp_servers"] = tuple(dict.fromkeys(self.mcp_servers))
        return NewSession(**{**self.model_dump(exclude_none=True), **rules})


class SessionPatch(_Strict):
    """The changes to a session. Null removes the title and the budget, and restores the agent's own model or effort."""

    title: Line | None = None
    budget_usd: Budget | None = None
    model: Line | None = None
    effort: Effort | None = None
    permission_mode: PermissionMode = "default"
    metadata: Annotated[dict[str, Any], _bounded(16 * KIB)] = Field(default_factory=dict)

    def changes(self) -> SessionChanges:
        return SessionChanges(self.model_dump(include=self.model_fields_set))


# `output_schema` does not go with steer, as JSON Schema; `TurnBody` checks it.
_STEERED: JsonDict = {"properties": {"if_busy": {"const": "steer"}}, "required": ["if_busy"]}
_NO_SCHEMA: JsonDict = {"properties": {"output_schema": {"type": "null"}}}


class TurnBody(_Strict):
    """A query, and how to run it."""

    model_config = ConfigDict(json_schema_extra={"if": _STEERED, "then": _NO_SCHEMA})

    query: Query
    turn_id: TurnId | None = None
    if_busy: Literal["queue", "reject", "interrupt", "steer"] = "queue"
    commands: bool = False
    output_schema: OutputSchema | None = None

    @model_validator(mode="after")
    def _fits(self) -> TurnBody:
        if self.if_busy == "steer" and self.output_schema is not None:
            raise PydanticCustomError("unfit", "output_schema does not go with steer: the running turn has its own")
        return self

    def request(self) -> NewTurn:
        query = self.query
        content: Content = query if isinstance(query, str) else [each.model_dump(exclude_none=True) for each in query]
        return NewTurn(content, self.turn_id, self.if_busy, self.commands, self.output_schema)


AnswerText = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Field(max_length=100), Tag("<texts>")],
    Discriminator(_answer_form, custom_error_type="answer", custom_error_message="must be text or a list of texts"),
]


# The members that go with each behavior, as JSON Schema; `PermissionBody` checks it.
_OF_ALLOW = ("updated_input", "answers", "content", "permission_mode")
_ALLOW: JsonDict = {"properties": {"behavior": {"const": "allow"}, "message": {"type": "null"}}}
_NULLS: JsonDict = {name: {"type": "null"} for name in _OF_ALLOW}
_NOTHING: JsonDict = {"anyOf": [{"const": False}, {"type": "array", "maxItems": 0}]}
_DENY: JsonDict = {"properties": {"behavior": {"const": "deny"}, "remember": _NOTHING, **_NULLS}}


class PermissionBody(_Strict):
    """The answer to a permission request. ``message`` goes with deny, all others with allow.

    ``answers`` go with a request of the kind ``question``: for each question a text, or a list of them if it takes
    several. ``permission_mode`` goes with a ``plan``: the mode to carry it out in. ``content`` goes with an
    ``elicitation``: the data asked for. ``remember`` goes with a ``tool``: it also allows from now on what the request
    suggests, all of it (true) or the suggestions of these ids.
    """

    model_config = ConfigDict(json_schema_extra={"anyOf": [_ALLOW, _DENY]})

    behavior: Literal["allow", "deny"]
    updated_input: Annotated[dict[str, Any], _bounded(1024 * KIB)] | None = None
    message: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    remember: bool | Annotated[list[SuggestionId], Field(max_length=64)] = False
    answers: Annotated[dict[str, AnswerText], Field(max_length=100), _bounded(256 * KIB)] | None = None
    content: Annotated[dict[str, Any], _bounded(256 * KIB)] | None = None
    permission_mode: PermissionMode | None = None

    @model_validator(mode="after")
    def _fits(self) -> PermissionBody:
        if self.behavior == "deny" and (self.remember or any(getattr(self, name) is not None for name in _OF_ALLOW)):
            raise PydanticCustomError("unfit", f"{', '.join(_OF_ALLOW)} and remember go with allow")
        if self.behavior == "allow" and self.message is not None:
            raise PydanticCustomError("unfit", "message goes with deny")
        return self

    def decision(self) -> Decision:
        updated: Mapping[str, Any] | None = self.updated_input
        return Decision(
            self.behavior,
            updated,
            self.message,
            self.remember if isinstance(self.remember, bool) else tuple(self.remember),
            answers=self.answers,
            content=self.content,
            permission_mode=self.permission_mode,
        )


class ForkBody(_Strict):
    """The turn whose end the new session begins with, and what is its own."""

    turn_id: TurnId | None = None
    session_id: Name | None = None
    title: Line | None = None
    workspace: Literal["copy", "share"] = "copy"
    metadata: Annotated[dict[str, Any], _bounded(16 * KIB)] | None = None

    def request(self) -> NewFork:
        return NewFork(self.session_id, self.turn_id, self.title, self.workspace, self.metadata)


class RewindBody(_Strict):
    """The turn at whose start the files were as they shall be again."""

    turn_id: TurnId
    dry_run: bool = False


class TicketBody(_Strict):
    """A ticket to read, or also to query and answer (``query``); ``ttl`` is in seconds."""

    ttl: Annotated[int, Field(ge=1, le=MAX_TTL), WHOLE] = 3600
    scope: Literal["read", "query"] = "read"

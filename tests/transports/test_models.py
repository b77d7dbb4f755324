import base64
from typing import Any

import pytest
from pydantic import BaseModel

from portico.config import settings
from portico.core.errors import InvalidRequest
from portico.transports import models
from portico.transports.models import PermissionBody, SessionBody, TurnBody
from portico.transports.parameters import EventParameters, ListParameters, StreamParameters
from portico.transports.parse import check

IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(b"png").decode()},
}


PDF_SOURCE = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF-1.4 ...").decode()}
DOCUMENTS = [
    {"type": "document", "source": PDF_SOURCE, "title": "A title", "context": "More about it"},
    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Words"}},
]


def document(**source: str) -> dict[str, Any]:
    return {"query": [{"type": "document", "source": {**PDF_SOURCE, **source}}]}


def test_clients_may_name_the_permission_modes_that_operators_may() -> None:
    assert models.PermissionMode == settings.PermissionMode


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("model", "values", "loc"),
    [
        (SessionBody, {"sesion_id": "a"}, ["sesion_id"]),
        (SessionBody, {"session_id": "-a"}, ["session_id"]),
        (SessionBody, {"session_id": "a/b"}, ["session_id"]),
        (SessionBody, {"session_id": "a" * 65}, ["session_id"]),
        (SessionBody, {"session_id": "a\n"}, ["session_id"]),
        (SessionBody, {"session_id": 7}, ["session_id"]),
        (SessionBody, {"cwd": "/a\0b"}, ["cwd"]),
        (SessionBody, {"model": ""}, ["model"]),
        (SessionBody, {"system_prompt": "é" * 60_000}, ["system_prompt"]),
        (SessionBody, {"system_prompt": "\ud800"}, ["system_prompt"]),
        (SessionBody, {"allowed_tools": ["Bash", 1]}, ["allowed_tools", 1]),
        (SessionBody, {"allowed_tools": "Bash"}, ["allowed_tools"]),
        (SessionBody, {"allowed_tools": ["x" * 500] * 300}, ["allowed_tools"]),
        (SessionBody, {"mcp_servers": {"a": "b"}}, ["mcp_servers", "a"]),
        (SessionBody, {"mcp_servers": {"a": {"x": "y" * 110_000}}}, ["mcp_servers"]),
        (SessionBody, {"mcp_servers": {"a": {"args": [1] * 50_000}}}, ["mcp_servers"]),  # larger as it will be written
        (SessionBody, {"max_turns": 0}, ["max_turns"]),
        (SessionBody, {"max_turns": "3"}, ["max_turns"]),
        (SessionBody, {"max_turns": True}, ["max_turns"]),
        (SessionBody, {"metadata": {"a": "x" * 17_000}}, ["metadata"]),
        (SessionBody, {"metadata": nested(40)}, ["metadata"]),
        (SessionBody, {"metadata": nested(5000)}, ["metadata"]),
        (TurnBody, {}, ["query"]),
        (TurnBody, {"query": ""}, ["query"]),
        (TurnBody, {"query": " \n"}, ["query"]),
        (TurnBody, {"query": 7}, ["query"]),
        (TurnBody, {"query": []}, ["query"]),
        (TurnBody, {"query": ["a"]}, ["query", 0]),
        (TurnBody, {"query": [{"type": "tool_use"}]}, ["query", 0]),
        (TurnBody, {"query": [{"type": "text", "text": "a", "cache": 1}]}, ["query", 0, "cache"]),
        (TurnBody, {"query": [{"type": "text", "text": ""}]}, ["query", 0, "text"]),
        (TurnBody, {"query": [{**IMAGE, "source": {**IMAGE["source"], "data": "a"}}]}, ["query", 0, "source", "data"]),  # type: ignore[dict-item]
        (
            TurnBody,
            {"query": [{**IMAGE, "source": {**IMAGE["source"], "media_type": "image/svg+xml"}}]},  # type: ignore[dict-item]
            ["query", 0, "source", "media_type"],
        ),
        (TurnBody, document(data=base64.b64encode(b"<html>").decode()), ["query", 0, "source", "data"]),
        (TurnBody, document(data="JVBERi0"), ["query", 0, "source", "data"]),
        (TurnBody, document(media_type="text/html"), ["query", 0, "source", "media_type"]),
        (TurnBody, document(type="text", data="a"), ["query", 0, "source", "media_type"]),
        (TurnBody, document(type="url"), ["query", 0, "source"]),
        (TurnBody, {"query": [{**DOCUMENTS[0], "title": ""}]}, ["query", 0, "title"]),
        (TurnBody, {"query": "a", "turn_id": "-"}, ["turn_id"]),
        (TurnBody, {"query": "a", "turn_id": "a" * 129}, ["turn_id"]),
        (TurnBody, {"query": "a", "if_busy": "shout"}, ["if_busy"]),
        (PermissionBody, {}, ["behavior"]),
        (PermissionBody, {"behavior": "maybe"}, ["behavior"]),
        (PermissionBody, {"behavior": "deny", "updated_input": {}}, []),
        (PermissionBody, {"behavior": "allow", "message": "no"}, []),
        (StreamParameters, {"query": ""}, ["query"]),
        (StreamParameters, {"query": "a", "token": "x"}, ["token"]),
        (ListParameters, {"state": "asleep"}, ["state"]),
        (ListParameters, {"limit": "0"}, ["limit"]),
        (EventParameters, {"after": "-1"}, ["after"]),
        (EventParameters, {"live": "perhaps"}, ["live"]),
        (EventParameters, {"live": "false", "limit": "5001"}, ["limit"]),
        (EventParameters, {"limit": "5"}, []),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(model: type[BaseModel], values: dict[str, Any], loc: list[Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(model, values)
    (error,) = caught.value.extra["errors"]
    assert set(error) == {"loc", "msg", "type"}
    assert error["loc"] == loc


def test_what_is_sent_reaches_the_engine() -> None:
    values = {
        "session_id": "a.B-1",
        "title": "A title",
        "driver": "echo",
        "model": "sonnet",
        "cwd": "/tmp",
        "system_prompt": "s",
        "append_system_prompt": "more",
        "permission_mode": "plan",
        "allowed_tools": ["Bash(git:*)"],
        "disallowed_tools": ["Write"],
        "mcp_servers": {"a": {"command": "x", "args": ["y"]}},
        "max_turns": 3,
        "metadata": {"k": [1, 2.5, None, True]},
    }
    request = check(SessionBody, values).request()
    assert {**values, "allowed_tools": ("Bash(git:*)",), "disallowed_tools": ("Write",)} == {
        name: getattr(request, name) for name in values
    }


def test_nothing_and_null_leave_the_defaults() -> None:
    empty = check(SessionBody, {}).request()
    assert check(SessionBody, dict.fromkeys(SessionBody.model_fields)).request() == empty
    assert empty.mcp_servers == {} and empty.allowed_tools == () and empty.metadata == {}


def test_blocks_pass_as_they_are() -> None:
    blocks = [{"type": "text", "text": "What is this?"}, IMAGE, *DOCUMENTS]
    assert check(TurnBody, {"query": blocks}).request().content == blocks


def test_a_heap_of_mistakes_is_told_in_part() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(TurnBody, {"query": "a", **{f"x{n}": 1 for n in range(500)}})
    assert len(caught.value.extra["errors"]) == 20


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert check(SessionBody, {"max_turns": 3.0}).max_turns == 3
    for wrong in (3.5, 0.0, True, "3", float("1e300")):
        with pytest.raises(InvalidRequest):
            check(SessionBody, {"max_turns": wrong})


def test_a_mistake_of_no_one_place_is_told_as_it_is() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(EventParameters, {"limit": "3"})
    assert caught.value.detail == "limit needs live=false"

"""The OpenAPI document says what is so: about paths, about events, about what is sent and answered."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from portico.core.engine import Engine
from portico.core.principal import Callers
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.engine import generous_policy
from portico.transports import content_blocks, models
from portico.transports.asgi import Api, routes_of
from portico.transports.codes import CODES, TURN_CODES, WEBSOCKET_CODES
from portico.transports.endpoint import route
from portico.transports.gate import CallerGate
from portico.transports.openapi import document, operations_of
from portico.transports.operation import Answer, operation
from portico.transports.streams import Streams
from tests.support.schemas import flaws, strict
from tests.support.serving import serving

PACKAGE = Path(__file__).parents[2] / "portico"
Json = dict[str, Any]


def engine() -> Engine:
    policy = generous_policy(Path("/nowhere"))
    return Engine(store=MemoryStore(), drivers={}, default_driver="", default_model=None, policy=policy)


def routes(prefix: str = "/claude", **api: Any) -> list[BaseRoute]:
    given = Api(prefix, 32 * 1024 * 1024, (), (), **api)
    return routes_of(engine(), CallerGate(engine(), Callers(()), given.tickets), Streams(), given)


@cache
def written(prefix: str) -> str:
    """As JSON, so that each test has a document of its own: making one takes half a second."""
    return json.dumps(document(routes(prefix)))


def made(prefix: str = "/claude", **api: Any) -> Json:
    found: Json = document(routes(prefix, **api)) if api else json.loads(written(prefix))
    return found


@pytest.mark.parametrize("rest", [True, False])
def test_what_is_served_is_in_the_document_and_nothing_else(rest: bool) -> None:
    served = {(path, method.lower()) for path, method, _ in operations_of(routes(rest=rest))}
    paths = made(rest=rest)["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == served
    assert ("/claude/sessions" in paths) == rest and "/claude/ws/{session_id}" in paths and "/docs" in paths


def test_the_document_lies_under_the_prefix() -> None:
    assert {path for path in made("/a/b")["paths"] if not path.startswith("/a/b/")} == {
        *("/healthz", "/readyz", "/openapi.json", "/docs")
    }


def test_it_says_what_tickets_are_good_for() -> None:
    paths = made("/a")["paths"]
    with_ticket = {
        f"{method} {path}"
        for path, methods in paths.items()
        for method, known in methods.items()
        if {"ticket": []} in known.get("security", ())
    }
    assert {"get /a/sessions/{session_id}/events", "get /a/ws/{session_id}", "get /a/stream/{session_id}"} < with_ticket
    assert not with_ticket & {"get /a/sessions", "post /a/sessions", "delete /a/sessions/{session_id}"}
    assert paths["/healthz"]["get"]["security"] == []


class _Plugin:
    def __init__(self, *routes: BaseRoute) -> None:
        self._routes = routes

    def routes(self, engine: Engine) -> list[BaseRoute]:
        return list(self._routes)


async def silent(request: Request) -> Response:
    return Response()


@operation("sayHello", "Say hello", Answer(200, "It was said."), codes=("busy",))
async def telling(request: Request) -> Response:
    return Response()


def test_a_plugins_route_is_in_the_document_if_it_says_what_it_is() -> None:
    plugin = _Plugin(Route("/silent", silent), route("/quiet", POST=silent), route("/telling", POST=telling))
    paths = made(routes={"mine": plugin})["paths"]
    assert "/silent" not in paths and "/quiet" not in paths
    assert set(paths["/telling"]["post"]["responses"]) >= {"200", "401", "409"}


def test_every_code_that_a_request_may_be_answered_with_is_in_the_document() -> None:
    sources = [*(PACKAGE / "transports").glob("*.py"), *(PACKAGE / "core").glob("*.py")]
    found = {code for path in sources for code in re.findall(r'\bcode="(\w+)"', path.read_text())}
    found |= set(re.findall(r'HttpError\(\d+, "(\w+)"', "".join(path.read_text() for path in sources)))
    elsewhere = {*TURN_CODES, *WEBSOCKET_CODES, "data_dir_unusable"}  # the last one when a server starts
    assert found - elsewhere - set(CODES) == set()


@pytest.mark.anyio
async def test_it_is_served_to_everybody_once_it_has_changed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        del served.client.headers["authorization"]
        for path, media_type in (("/openapi.json", "application/json"), ("/docs", "text/html; charset=utf-8")):
            answer = await served.client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
            for known in (answer.headers["etag"], f'"x", W/{answer.headers["etag"]}', "*"):
                again = await served.client.get(path, headers={"if-none-match": known})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == answer.headers["etag"]
            assert (await served.client.get(path, headers={"if-none-match": '"x"'})).content == answer.content
            head = await served.client.head(path)
            assert head.status_code == 200 and head.headers["content-length"] == str(len(answer.content))
        assert (await served.client.get("/openapi.json", headers={"host": "evil.example"})).status_code == 403


@pytest.mark.anyio
async def test_what_is_answered_is_as_the_document_says(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        told_of = (await served.client.get("/openapi.json")).json()
        created = await served.client.post("/claude/sessions", json={"session_id": "s", "metadata": {"k": [1]}})
        assert flaws(strict(told_of, "SessionView"), created.json()) == []
        ask = json.dumps({"ask": {"tool_name": "Bash", "input": {"command": "ls"}}, "tell": "permission_mode"})
        turn = await served.client.post("/claude/sessions/s/turns", json={"query": ask})
        assert flaws(strict(told_of, "TurnAnswer"), turn.json()) == []
        validator, told = strict(told_of, "Event"), set()
        async with served.client.stream("GET", "/claude/sessions/s/events") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    assert flaws(validator, event) == [], event
                    told.add(event["type"])
                    if event["type"] == "permission_request":
                        path = f"/claude/sessions/s/permissions/{event['request_id']}"
                        waiting = (await served.client.get("/claude/sessions/s")).json()
                        assert waiting["pending_permissions"]
                        assert flaws(strict(told_of, "SessionView"), waiting) == []
                        answered = await served.client.post(path, json={"behavior": "allow"})
                        assert flaws(strict(told_of, "PermissionAnswer"), answered.json()) == []
                    if event["type"] == "complete":
                        break
        assert told > {"session", "query", "delta", "tool_use", "permission_resolved", "tool_result", "message"}
        page = await served.client.get("/claude/sessions/s/events?live=false")
        assert flaws(strict(told_of, "EventPage"), page.json()) == []
        listed = await served.client.get("/claude/sessions")
        assert flaws(strict(told_of, "SessionPage"), listed.json()) == []
        for path in ("/claude/sessions/none", "/claude/sessions?limit=x", "/claude/sessions?a=1&a=2"):
            problem = await served.client.get(path)
            assert flaws(strict(told_of, "Problem"), problem.json()) == []


@pytest.mark.parametrize(
    ("type_", "schema"),
    [
        (content_blocks.NonBlank, {"type": "string", "pattern": content_blocks.NOT_BLANK}),
        (models.Line, {"type": "string", "pattern": models.NO_NUL, "minLength": 1, "maxLength": 256}),
    ],
    ids=["NonBlank", "Line"],
)
def test_what_is_said_of_text_is_what_is_checked(type_: Any, schema: Json) -> None:
    title = made()["components"]["schemas"]["SessionBody"]["properties"]["title"]["anyOf"][0]
    assert type_ is not models.Line or title == schema
    adapter: TypeAdapter[str] = TypeAdapter(type_)

    @given(st.text(st.characters(codec="utf-8"), max_size=4) | st.text("\0 \t\x1c\x85\u3000\ufeff\u200b", max_size=3))
    def check(text: str) -> None:
        try:
            adapter.validate_python(text)
            accepted = True
        except ValidationError:
            accepted = False
        assert accepted == Draft202012Validator(schema).is_valid(text)

    check()


def test_portico_openapi_prints_what_a_server_serves(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)}
    argv = [sys.executable, "-m", "portico", "openapi", "--api-prefix", "/a", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout) == made("/a")
    assert os.listdir(tmp_path) == [], "nothing is made for it"

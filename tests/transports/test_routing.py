"""Guards decide about the route that handles a request, whatever its path looks like."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from portico.core.sessions import Sessions
from portico.transports.admission import PUBLIC, READ, Admission
from portico.transports.auth import principal_of
from portico.transports.endpoint import route
from portico.transports.operation import Answer, operation
from tests.support.limits import HANG_SECONDS
from tests.support.serving import Served, serving
from tests.support.websocket import talking

pytestmark = pytest.mark.anyio

METHODS = ["GET", "POST", "DELETE"]


class CatchAll:
    """Routes of a plugin, for each path that the API does not have; ``reached`` are the paths that got here."""

    def __init__(self, *first: BaseRoute) -> None:
        self._first = first
        self.reached: list[str] = []

    def routes(self, engine: Sessions) -> list[BaseRoute]:
        return [
            *self._first,
            WebSocketRoute("/{rest:path}", self._accept),
            Route("/{rest:path}", self._answer, methods=METHODS),
        ]

    async def _answer(self, request: Request) -> Response:
        self.reached.append(request.scope["path"])
        return PlainTextResponse(principal_of(request).name)

    async def _accept(self, socket: WebSocket) -> None:
        self.reached.append(socket.scope["path"])
        await socket.accept()
        await socket.send_json({"type": "hello", "principal": socket.scope["state"]["principal"].name})
        await socket.close()


@asynccontextmanager
async def strangers(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.url, timeout=HANG_SECONDS, trust_env=False) as http:
        yield http


async def ticket(served: Served, scope: str = "query") -> str:
    answer = await served.client.post("/claude/sessions/s/tickets", json={"scope": scope})
    return str(answer.json()["ticket"])


async def test_a_plugins_route_needs_credentials_whatever_its_path(tmp_path: Path) -> None:
    plugin = CatchAll()
    paths = ("/docs/", "/healthz/", "//healthz", "/HEALTHZ", "/healthz%00", "/x")
    async with serving(tmp_path, routes={"all": plugin}) as served, strangers(served) as nobody:
        for path in paths:
            assert (await nobody.get(served.url + path)).status_code == 401, path
        for of_the_api in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await nobody.get(of_the_api)).status_code == 200
        assert plugin.reached == []
        for count, path in enumerate(paths, start=1):
            answer = await served.client.get(served.url + path)
            assert (answer.text, len(plugin.reached)) == ("alice", count), path


async def test_a_ticket_is_not_for_a_plugins_route(tmp_path: Path) -> None:
    plugin = CatchAll()
    async with serving(tmp_path, routes={"all": plugin}) as served, strangers(served) as nobody:
        await served.session()
        for method, path in (
            ("DELETE", "/claude/sessions/s/turns/"),
            ("DELETE", "/claude/sessions/s/turns/t/more"),
            ("POST", "/claude/sessions/s/permissions/"),
            ("GET", "/claude/sessions/s/"),
            ("GET", "/claude/stream/s/"),
            ("GET", "/s"),
        ):
            answer = await nobody.request(method, f"{path}?ticket={await ticket(served)}")
            assert (answer.status_code, plugin.reached) == (403, []), f"{method} {path}: {answer.text}"


async def test_a_plugins_websocket_needs_credentials_at_the_handshake(tmp_path: Path) -> None:
    plugin = CatchAll()
    async with serving(tmp_path, routes={"all": plugin}) as served:
        for token in (None, "wrong"):
            async with talking(served.url, "/anything", token=token, v1=True) as client:
                assert (await client.closed())[0] == 4401
        assert plugin.reached == []
        async with talking(served.url, "/anything") as client:
            assert (await client.receive())["principal"] == "alice"


@operation("readPoster", "Read a poster", Answer(200, "It.", str), admission=PUBLIC)
async def poster(request: Request) -> Response:
    return PlainTextResponse("hello")


@operation("rollDice", "Roll dice", Answer(200, "They have rolled.", str), admission=Admission(changes=True))
async def dice(request: Request) -> Response:
    return PlainTextResponse("six")


@operation("readNote", "Read a session's note", Answer(200, "It.", str), admission=READ)
async def note(request: Request) -> Response:
    return PlainTextResponse(principal_of(request).name)


async def test_a_plugins_route_may_say_who_may_use_it(tmp_path: Path) -> None:
    inner = Mount("/inner", routes=[Route("/poster", poster)])  # what is mounted has no say
    mine = [route("/poster", GET=poster), route("/dice", GET=dice), route("/notes/{session_id}", GET=note), inner]
    plugin = CatchAll(*mine)
    async with serving(tmp_path, routes={"all": plugin}) as served, strangers(served) as nobody:
        await served.session()
        await served.session("other")
        assert (await nobody.get("/poster")).text == "hello"
        assert (await nobody.post("/poster")).status_code == 405
        assert (await nobody.get("/inner/poster")).status_code == 401
        assert (await served.client.get("/inner/poster")).text == "hello"
        foreign = {"Origin": "https://evil.example"}
        assert (await served.client.get("/dice")).text == "six"
        assert (await served.client.get("/dice", headers=foreign)).status_code == 403
        assert (await served.client.get("/notes/s", headers=foreign)).status_code == 200
        reading = await ticket(served, "read")
        assert (await nobody.get(f"/notes/s?ticket={reading}")).text == "alice"
        assert (await nobody.get(f"/notes/other?ticket={reading}")).status_code == 404
        assert (await nobody.get(f"/dice?ticket={reading}")).status_code == 403
        document = (await nobody.get("/openapi.json")).json()["paths"]
        assert [document[path]["get"]["security"] for path in ("/poster", "/notes/{session_id}")] == [
            [],
            [{"bearer": []}, {"ticket": []}],
        ]


async def test_a_wrong_method_is_told_to_everybody_where_all_is_public(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, strangers(served) as nobody:
        assert (await nobody.delete("/healthz")).status_code == 405
        assert (await nobody.put("/claude/sessions")).status_code == 401

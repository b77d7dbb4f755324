"""Another app around Portico: wherever and however it is mounted, the same guards hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.exceptions import InvalidStatus

from tests.support.accesslog import access_lines
from tests.support.hosting import Wrap, hosting
from tests.support.limits import HANG_SECONDS
from tests.support.websocket import talking

pytestmark = pytest.mark.anyio

EVIL = {"Origin": "https://evil.example"}


@dataclass(frozen=True)
class Around:
    """``base`` is what a client puts before the paths of the API, ``taken`` is what a proxy has taken off before."""

    wrap: Wrap
    base: str = ""
    taken: str = ""
    root_path: str = ""
    api: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mount(self) -> str:
        """Return the URL at which clients of the proxy find the API."""
        return self.taken + self.base


def mounted(path: str) -> Wrap:
    return lambda app: Starlette(routes=[Mount(path, app=app)])


def changing(change: Callable[[Scope], dict[str, Any]], wrap: Wrap = lambda app: app) -> Wrap:
    """A host that passes another scope on."""

    def around(app: ASGIApp) -> ASGIApp:
        inner = wrap(app)

        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            await inner(scope if scope["type"] == "lifespan" else {**scope, **change(scope)}, receive, send)

        return changed

    return around


def path_taken_off(scope: Scope) -> dict[str, Any]:
    return {"path": scope["path"].removeprefix("/agents"), "root_path": "/agents"}


AROUND = {
    "nothing": Around(lambda app: app),
    "a mount": Around(mounted("/agents"), "/agents"),
    "a mount in a mount": Around(lambda app: Starlette(routes=[Mount("/a", routes=[Mount("/b", app=app)])]), "/a/b"),
    "a mount at the root": Around(mounted("")),
    "a mount by name": Around(lambda app: Starlette(routes=[Host("127.0.0.1", app=app)])),
    "a mount with a parameter": Around(mounted("/{session_id}/agents"), "/caf%C3%A9%20%26%7B/agents"),
    "a mount at the API's prefix": Around(mounted("/claude"), "/claude"),
    "a mount at an open path": Around(mounted("/healthz"), "/healthz"),
    "a mount at a session": Around(mounted("/claude/sessions/s"), "/claude/sessions/s"),
    "a proxy that takes its part off, and uvicorn told": Around(lambda app: app, taken="/api", root_path="/api"),
    "the same with a slash behind": Around(lambda app: app, taken="/api", root_path="/api/"),
    "the same and a mount": Around(mounted("/agents"), "/agents", taken="/api", root_path="/api"),
    "a root_path that is not in the path": Around(changing(lambda scope: {"root_path": "/api"}), taken="/api"),
    "the same below a mount": Around(
        changing(lambda scope: {"root_path": "/api"}, mounted("/agents")), "/agents", taken="/api"
    ),
    "a root_path with a slash behind": Around(changing(lambda scope: {"root_path": "/agents/"}), "/agents"),
    "a host that takes the mount off the path": Around(changing(path_taken_off), "/agents"),
    "a proxy that takes its part off, and Portico told": Around(
        lambda app: app, taken="/api", api={"root_path": "/api"}
    ),
    "a proxy that leaves it, and Portico told": Around(lambda app: app, "/api", api={"root_path": "/api"}),
    "a proxy that takes off what the API's path begins with": Around(
        lambda app: app, taken="/claude", api={"root_path": "/claude"}
    ),
    "such a proxy and a mount": Around(mounted("/agents"), "/agents", taken="/api", api={"root_path": "/api"}),
    "a server that says no raw_path": Around(changing(lambda scope: {"raw_path": None}, mounted("/agents")), "/agents"),
}


def client(url: str, token: str | None = "alice-secret") -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=HANG_SECONDS, trust_env=False)


async def told(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> tuple[int, str]:
    answer = await http.request(method, path, **options)
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    return answer.status_code, answer.json()["code"] if is_problem else ""


@pytest.mark.parametrize("name", AROUND)
async def test_the_guards_hold_wherever_the_app_is_mounted(tmp_path: Path, name: str) -> None:
    around = AROUND[name]
    async with hosting(tmp_path, around.wrap, root_path=around.root_path, api=around.api) as server:
        url = server + around.base
        async with client(url) as alice, client(url, None) as nobody:
            # What is open to everybody.
            for path in ("/healthz", "/readyz"):
                assert await told(nobody, "GET", path) == (200, ""), path
            assert await told(nobody, "GET", "/healthz", headers={"Host": "10.0.0.1"}) == (
                (404, "") if "by name" in name else (200, "")
            )
            # Who has no credentials gets nowhere else.
            for path in ("/claude/sessions", "/claude/stream/s?query=x", "/nothing", "/healthz/", "/claude//sessions"):
                assert await told(nobody, "GET", url + path) == (401, "unauthenticated"), path
            assert await told(nobody, "POST", "/claude/sessions", json={}) == (401, "unauthenticated")
            # Its owner gets there, and is told where it is.
            made = await alice.post("/claude/sessions", json={"session_id": "s"})
            assert (made.status_code, made.headers["location"]) == (201, f"{around.mount}/claude/sessions/s")
            assert (await alice.get(server + made.headers["location"].removeprefix(around.taken))).json() == made.json()
            await alice.post("/claude/sessions", json={"session_id": "other"})
            assert await told(alice, "HEAD", "/claude/sessions/s") == (200, "")
            assert await told(alice, "GET", "/claude/nothing") == (404, "not_found")
            assert await told(alice, "GET", "/claude/sessions/none") == (404, "session_not_found")
            assert await told(alice, "PUT", "/claude/sessions") == (405, "method_not_allowed")
            # Pages of other origins, and names of others, start nothing.
            for method, path in (
                ("GET", "/claude/stream/s?query=x"),
                ("POST", "/claude/stream/s"),
                ("POST", "/claude/sessions/s/turns"),
                ("DELETE", "/claude/sessions/s"),
            ):
                assert await told(alice, method, path, headers=EVIL) == (403, "origin_not_allowed"), path
                linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
                assert await told(alice, method, path, headers=linked) == (403, "origin_not_allowed"), path
            asks = {**EVIL, "Access-Control-Request-Method": "POST"}
            assert await told(nobody, "OPTIONS", "/claude/sessions", headers=asks) == (403, "origin_not_allowed")
            if "by name" not in name:
                rebound = {"Host": "evil.example"}
                assert await told(alice, "GET", "/claude/sessions", headers=rebound) == (403, "host_not_allowed")
            with pytest.raises(InvalidStatus) as refused:
                async with talking(url, headers=EVIL):
                    pass
            assert refused.value.response.status_code == 403
            # Tickets.
            reading, asking = [
                (await alice.post("/claude/sessions/s/tickets", json={"scope": scope})).json()["ticket"]
                for scope in ("read", "query")
            ]
            for ticket in (reading, asking):
                assert await told(nobody, "GET", f"/claude/sessions/s?ticket={ticket}") == (200, "")
                assert await told(nobody, "GET", f"/claude/sessions/s/events?live=false&ticket={ticket}") == (200, "")
                other = f"/claude/sessions/other?ticket={ticket}"
                assert await told(nobody, "GET", other) == (404, "session_not_found")
                assert await told(nobody, "GET", f"/claude/sessions?ticket={ticket}") == (403, "not_allowed")
            assert await told(nobody, "GET", f"/claude/stream/s?query=x&ticket={reading}") == (403, "not_allowed")
            assert (await alice.get("/claude/sessions/s")).json()["turns"] == 0
            # Turns are streamed, to a ticket's holder and over a WebSocket.
            with access_lines() as lines:
                streamed = await nobody.get(f"/claude/stream/s?query=hello&turn_id=t&ticket={asking}")
                record = await lines.wait(
                    f"{around.root_path if around.root_path else ''}{around.base}/claude/stream/s"
                )
                assert (record.__dict__["principal"], record.__dict__["status"]) == ("alice", 200)
            types = [json.loads(line[6:])["type"] for line in streamed.text.splitlines() if line.startswith("data: ")]
            assert (types[0], types[-1]) == ("query", "complete")
            async with talking(url, f"/claude/ws/s?ticket={asking}", token=None, v1=True) as socket:
                assert (await socket.ask({"type": "query", "content": "more"}))["type"] == "ack"
                await socket.until("complete")
            async with talking(url, token=None, v1=True) as socket:
                assert (await socket.ask({"type": "auth", "token": "alice-secret"}))["type"] == "ack"
            for path, token, code in (("/claude/ws/other", "bob-secret", 4404), ("/nothing", None, 4401)):
                async with talking(url, path, token=token, v1=True) as socket:
                    assert (await socket.closed())[0] == code
            assert (await alice.get("/claude/sessions/s")).json()["turns"] == 2
        if around.base:
            async with client(server) as alice:
                assert (await alice.get("/outside")).status_code in (401, 404)


@pytest.mark.parametrize(
    "name",
    [
        *("nothing", "a mount with a parameter", "the same and a mount", "such a proxy and a mount"),
        "a proxy that takes off what the API's path begins with",
    ],
)
async def test_the_document_and_its_page_say_where_the_api_is(tmp_path: Path, name: str) -> None:
    around = AROUND[name]
    async with hosting(tmp_path, around.wrap, root_path=around.root_path, api=around.api) as server:
        async with client(server + around.base, None) as nobody:
            document = (await nobody.get("/openapi.json")).json()
            page = (await nobody.get("/docs")).text
            assert document["servers"] == [{"url": around.mount or "/"}]
            assert "/claude/sessions" in document["paths"]
            assert (f"<code>{around.mount}</code>" in page) == bool(around.mount)
            # Each mount has a document of its own.
            if "parameter" in name:
                other = httpx.URL(server).join("/x/agents/openapi.json")
                assert (await nobody.get(other)).json()["servers"] == [{"url": "/x/agents"}]
                assert (await nobody.get("/openapi.json")).json() == document


SAID = [
    (["/site/agents"], "/site/agents"),
    (["/agents/"], "/agents"),
    (["/made-up", "/agents"], "/agents"),
    (["/made-up, /agents"], "/agents"),
    (["/"], ""),
    ([""], "/set"),
    (["//evil.example"], "/set"),
    (["https://evil.example/agents"], "/set"),
    (["/\\evil.example"], "/set"),
    (["/a/../.."], "/set"),
    (["agents"], "/set"),
    (["/agents?a=b"], "/set"),
    (["/agents\tb"], "/set"),
    (["/" + "a" * 256], "/set"),
]
"""Values of X-Forwarded-Prefix, and the path that they lead to where `root_path` is `/set`."""


@pytest.mark.parametrize("proxies", [("127.0.0.1",), ("10.0.0.1",), ()])
async def test_a_trusted_proxy_says_what_it_has_taken_off(tmp_path: Path, proxies: tuple[str, ...]) -> None:
    api = {"root_path": "/set", "proxies": proxies}
    async with hosting(tmp_path, lambda app: app, api=api) as server, client(server) as alice:
        for number, (said, trusted) in enumerate(SAID):
            mount = trusted if proxies == ("127.0.0.1",) else "/set"
            headers = [("X-Forwarded-Prefix", each) for each in said] + [("X-Forwarded-For", "192.0.2.1")]
            made = await alice.post("/claude/sessions", json={"session_id": f"s{number}"}, headers=headers)
            assert (made.status_code, made.headers["location"]) == (201, f"{mount}/claude/sessions/s{number}"), said
            # Where the proxy took a path off, nothing else is: it may forbid a path that would be reached in that way.
            twice = await told(alice, "GET", "/set/claude/sessions", headers=headers)
            assert twice == ((200, "") if mount == "/set" else (404, "not_found")), said
        document = (await alice.get("/openapi.json", headers={"X-Forwarded-Prefix": "/agents"})).json()
        assert document["servers"] == [{"url": "/agents" if proxies == ("127.0.0.1",) else "/set"}]


async def test_everything_lies_below_the_prefix_where_asked(tmp_path: Path) -> None:
    api = {"everything": True, "root_path": "/site", "routes": {"own": OwnRoutes()}}
    async with hosting(tmp_path, lambda app: app, api=api) as server, client(server) as alice:
        async with client(server, None) as nobody:
            for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
                assert (await nobody.get(f"/claude{path}")).status_code == 200, path
                assert await told(nobody, "GET", path) == (401, "unauthenticated"), path
                assert await told(alice, "GET", path) == (404, "not_found"), path
            document = (await nobody.get("/claude/openapi.json")).json()
        made = await alice.post("/claude/sessions", json={"session_id": "s"})
        assert made.headers["location"] == "/site/claude/sessions/s"
        assert (document["servers"], "/sessions" in document["paths"]) == ([{"url": "/site/claude"}], True)
        for path in ("/sessions", "/claude/claude/sessions", "/claudes/sessions", "/site/sessions"):
            assert await told(alice, "GET", path) == (404, "not_found"), path
        assert await told(alice, "GET", "/site/claude/sessions/s") == (200, "")
        assert (await alice.get("/claude/own")).text == f"{server}/site/claude/own"
        async with talking(server, "/claude/ws/s", v1=True) as socket:
            assert (await socket.ask({"type": "query", "content": "hello"}))["type"] == "ack"


@dataclass(frozen=True)
class OwnRoutes:
    def routes(self, engine: Any) -> list[Route]:
        return [Route("/own", lambda request: PlainTextResponse(str(request.url_for("own"))), name="own")]


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/{tenant:path}/agents", "//evil.example/agents"),
        ("/{tenant:path}/agents", "/%2Fevil.example/agents"),
        ("/{tenant}/agents", "/a%0D%0Ab:%20c/agents"),
        ("/{tenant}/agents", "/%5Cevil.example/agents"),
        ("/{tenant}/agents", "/%FF%22/agents"),
    ],
)
async def test_what_a_mounts_parameters_hold_leads_nobody_elsewhere(tmp_path: Path, template: str, path: str) -> None:
    async with hosting(tmp_path, mounted(template)) as server, client(server) as alice:
        made = await alice.post(f"{server}{path}/claude/sessions", json={})
        assert made.status_code == 201
        location = httpx.URL(server).join(made.headers["location"])
        assert (location.netloc, set(made.headers)) == (httpx.URL(server).netloc, {*made.headers} - {"b"})
        assert (await alice.get(location)).json()["session_id"] == made.json()["session_id"]


async def teapot(request: Request, error: Exception) -> Response:
    return PlainTextResponse("handled by the app around", 418)


async def test_what_the_app_around_has_noted_is_not_ours_and_stays_as_it_is(tmp_path: Path) -> None:
    """A principal of its own is none of Portico's, its error handlers get none of Portico's errors."""
    seen: list[Scope] = []

    def around(app: ASGIApp) -> ASGIApp:
        host = Starlette(
            routes=[Mount("/{session_id}/agents", app=app), Route("/own", lambda request: PlainTextResponse("own"))],
            exception_handlers={Exception: teapot, RuntimeError: teapot, 405: teapot},
        )

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                scope["state"] = {"principal": "eve", "caller": "eve", "note": 1}
                seen.append(scope)
            await host(scope, receive, send)

        return noting

    async with hosting(tmp_path, around) as server:
        url = f"{server}/other/agents"
        async with client(url) as alice, client(url, None) as nobody:
            with access_lines() as lines:
                assert (await nobody.get("/healthz")).status_code == 200
                assert (await lines.wait("/other/agents/healthz")).__dict__["principal"] == "-"
            assert (await nobody.get("/claude/sessions")).status_code == 401
            await alice.post("/claude/sessions", json={"session_id": "s"})
            assert (await alice.get("/claude/sessions/s")).json()["session_id"] == "s"
            assert (await alice.patch("/healthz")).json()["code"] == "method_not_allowed"
            ticket = (await alice.post("/claude/sessions/s/tickets", json={})).json()["ticket"]
            assert (await nobody.get(f"/claude/sessions?ticket={ticket}")).status_code == 403
            assert (await nobody.get(f"/claude/sessions/s?ticket={ticket}")).status_code == 200
        async with client(server) as alice:
            assert (await alice.get("/own")).text == "own"
    for scope in seen[:-1]:
        assert scope["path"].startswith("/other/agents/") and scope["root_path"] == "/other/agents"
        assert scope["path_params"] == {"session_id": "other"}
        assert scope["state"] == {"principal": "eve", "caller": "eve", "note": 1}
        assert not [key for key in scope if key.startswith("portico.")]
        assert scope["query_string"].startswith(b"ticket=") or not scope["query_string"]

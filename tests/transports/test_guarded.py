"""The headers that every answer has for a browser."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp

from portico.transports.guarded import GUARDS, STREAM_GUARDS, Guarded
from tests.support.limits import HANG_SECONDS
from tests.support.serving import get, serving

pytestmark = pytest.mark.anyio


async def test_answers_streams_refusals_and_what_is_no_http_have_them(tmp_path: Path) -> None:
    async with serving(tmp_path, origins={"https://app.example"}) as served:
        await served.session()
        evil = {"Origin": "https://evil.example"}
        asked: Iterable[tuple[str, str, dict[str, str]]] = (
            ("GET", "/claude/sessions", {}),
            ("GET", "/healthz", {}),
            ("GET", "/claude/stream/s?query=x", {}),
            ("GET", "/nothing", {}),
            ("GET", "/claude/sessions", {"Authorization": "Bearer no"}),
            ("GET", "/claude/sessions", {"Host": "evil.example"}),
            ("POST", "/claude/sessions", evil),
            ("OPTIONS", "/claude/sessions", evil | {"Access-Control-Request-Method": "POST"}),
            ("GET", "/claude/ws/s", {}),
        )
        for method, path, headers in asked:
            answer = await served.client.request(method, path, headers=headers)
            expected = STREAM_GUARDS if "event-stream" in answer.headers["content-type"] else GUARDS
            assert {name: answer.headers.get(name) for name in GUARDS} == expected, path
            assert len(answer.headers.get_list("cache-control")) == 1
        for sent in (b"\0", b"GET /" + b"x" * 40_000, get("/claude/ws/s", "upgrade: websocket", "connection: upgrade")):
            stream = await served.raw(sent)
            with anyio.fail_after(HANG_SECONDS):
                raw = await stream.receive()
            assert b"x-content-type-options: nosniff\r\n" in raw and b"content-security-policy: default-src" in raw


async def test_a_page_may_have_a_policy_of_its_own() -> None:
    policy = "default-src 'self'"

    async def page(scope: object, receive: object, send: object) -> None:
        headers = {"Content-Security-Policy": policy, "Cache-Control": "max-age=60"}
        await HTMLResponse("x", headers=headers)(scope, receive, send)  # type: ignore[arg-type]

    headers = await headers_of(Guarded(page))
    assert headers["content-security-policy"] == policy and headers["cache-control"] == "max-age=60"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("media_type", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
async def test_no_proxy_may_compress_a_stream_whoever_it_is_from(media_type: str) -> None:
    async def stream(scope: object, receive: object, send: object) -> None:
        await HTMLResponse("x", media_type=media_type)(scope, receive, send)  # type: ignore[arg-type]

    assert (await headers_of(Guarded(stream)))["cache-control"] == "no-store, no-transform"


async def headers_of(app: ASGIApp) -> dict[str, str]:
    found: dict[str, str] = {}

    async def send(message: object) -> None:
        if isinstance(message, dict) and message["type"] == "http.response.start":
            found.update({name.decode(): value.decode() for name, value in message["headers"]})

    request = Request({"type": "http", "method": "GET", "path": "/", "headers": []})
    await app(request.scope, request.receive, send)
    return found

"""A page of another origin can do nothing to a server, in a real browser, whether or not the server asks for tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.async_api import Page, Route

from tests.support.browser import PAGES, chromium, needs_chromium, serving_pages
from tests.support.places import PLACES
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, talk

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.long,
    needs_chromium,
]

BLIND = {"form", "form_get", "beacon"}
"""Requests that a page may send, and whose answers it never sees."""
EVIL = "evil.example"
NO_LOCAL_NETWORK_CHECKS = "--disable-features=LocalNetworkAccessChecks"
"""Newer browsers keep pages from the local network by themselves, which is not what is to be seen here."""


def told(found: dict[str, str]) -> dict[str, str]:
    """Return everything that the page has learnt, except the refusals of the browser itself."""
    refused = {"error", "TypeError", "SecurityError", "opaque:", "nothing to see"}
    return {name: seen for name, seen in found.items() if name not in BLIND and seen not in refused}


async def untouched(server: RunningServer, client: Talk) -> None:
    session = await client.session("s")
    assert (session["state"], session["turns"], session["queued"]) == ("idle", 0, 0)
    assert [event["type"] for event in await client.history("s")] == ["session"] * session["last_seq"]
    listed = (await client.http.get("/sessions")).json()["sessions"]
    assert [each["session_id"] for each in listed] == ["s"]


@PLACES
@pytest.mark.parametrize("auth", ["none", "token"])
async def test_a_foreign_page_can_neither_read_nor_change_anything(
    tmp_path: Path, place: dict[str, str], auth: str
) -> None:
    variables = {"PORTICO_AUTH": auth, "PORTICO_DRIVER": "echo", **place}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s")
        with serving_pages() as origin:
            async with chromium() as browser:
                page = await browser.new_page()
                await page.goto(f"{origin}/foreign.html")
                # Even with the token, should it have leaked, a browser does not let it.
                for headers in ({}, {"Authorization": f"Bearer {server.token}"}):
                    assert told(await attacked(page, server.api, headers)) == {}
        await untouched(server, client)
        log = (tmp_path / "server.log").read_text()
        api = urlsplit(server.api).path
        for arrived in (f"GET {api}/stream/s", f"POST {api}/stream/s", f"OPTIONS {api}/sessions", f"WEBSOCKET {api}"):
            assert arrived in log


@PLACES
@pytest.mark.parametrize("auth", ["none", "token"])
async def test_a_name_that_was_made_to_lead_here_gives_nothing_away(
    tmp_path: Path, place: dict[str, str], auth: str
) -> None:
    """DNS rebinding: to the browser the page and the server are of one origin."""
    variables = {"PORTICO_AUTH": auth, "PORTICO_DRIVER": "echo", **place}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s")
        flags = (f"--host-resolver-rules=MAP {EVIL} 127.0.0.1", NO_LOCAL_NETWORK_CHECKS)
        async with chromium(*flags) as browser:
            page = await browser.new_page()
            statuses: list[int] = []
            page.on("response", lambda answer: statuses.append(answer.status) if "/claude/" in answer.url else None)
            origin = server.url.replace("127.0.0.1", EVIL)
            await page.route(f"{origin}/", own_page)
            await page.goto(f"{origin}/")
            found = await attacked(page, f"{origin}/claude", {})
            assert {seen for name, seen in told(found).items() if "host_not_allowed" not in seen} <= {"load"}
            assert set(statuses) == {403}
        await untouched(server, client)


async def test_over_a_tunneler_a_page_starts_nothing(tmp_path: Path) -> None:
    """Plain HTTP to a name: browsers send neither an Origin nor Sec-Fetch-* with images, links and the like."""
    name = "alice.portico.ziti"
    variables = {"PORTICO_AUTH": "none", "PORTICO_DRIVER": "echo", "PORTICO_ALLOWED_HOSTS": name}
    flags = (f"--host-resolver-rules=MAP {name} 127.0.0.1, MAP {EVIL} 127.0.0.1", NO_LOCAL_NETWORK_CHECKS)
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s")
        with serving_pages() as origin:
            async with chromium(*flags) as browser:
                page = await browser.new_page()
                bare: list[dict[str, str]] = []
                page.on("request", lambda asked: bare.append(asked.headers) if "/claude/" in asked.url else None)
                await page.goto(f"{origin.replace('127.0.0.1', EVIL)}/foreign.html")
                api = server.api.replace("127.0.0.1", name)
                assert told(await attacked(page, api, {})) == {}
                await page.evaluate("url => { location.href = url }", f"{api}/stream/s?query=hello")
                await page.wait_for_url("**/stream/**")
                assert any("origin" not in each and "sec-fetch-site" not in each for each in bare)
        await untouched(server, client)
        assert "GET /claude/stream/s 403" in (tmp_path / "server.log").read_text()


async def own_page(route: Route) -> None:
    await route.fulfill(body=(PAGES / "foreign.html").read_text(), content_type="text/html")


async def attacked(page: Page, api: str, headers: dict[str, str]) -> dict[str, str]:
    found: Any = await page.evaluate("([api, headers]) => attack(api, headers)", [api, headers])
    return dict(found)

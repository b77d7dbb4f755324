"""Pages of another origin in a real browser, over a network that breaks: real server, real CLI, scripted model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.limits import HANG_SECONDS

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.async_api import Page

from tests.support.browser import chromium, needs_chromium, serving_pages
from tests.support.proxy import Proxy, proxy
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, only, script, talk, text

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.real_cli,
    pytest.mark.long,
    needs_chromium,
]

SLOW = script({"think": "hm", "say": "wörd\u2028 🦊 ", "words": 60, "gap_ms": 40})
MILLISECONDS = 1000 * HANG_SECONDS


@dataclass(slots=True)
class World:
    """``session`` and ``stream`` are URLs that lead through ``network``."""

    server: RunningServer
    client: Talk
    page: Page
    network: Proxy

    @property
    def stream(self) -> str:
        return f"{self.network.url}/claude/stream/s"

    @property
    def events(self) -> str:
        return f"{self.network.url}/claude/sessions/s/events"

    @property
    def socket(self) -> str:
        return f"{self.network.url.replace('http:', 'ws:')}/claude/ws/s"

    async def workspace(self) -> Path:
        return Path((await self.client.session("s"))["cwd"])

    async def wait(self, condition: str) -> None:
        await self.page.wait_for_function(condition, timeout=MILLISECONDS)

    async def seen(self) -> list[Event]:
        return [json.loads(data) for data in await self.page.evaluate("seen")]

    async def shown(self) -> str:
        return await self.page.locator("output").text_content() or ""

    def calls(self) -> int:
        """Return the number of requests that the model got."""
        return sum(call.path == "/v1/messages" for call in self.server.model.requests)

    def times_called(self, path: str) -> int:
        return sum(path in line for line in self.network.requests)


@asynccontextmanager
async def world(
    folder: Path, name: str, *cuts: int | None, welcome: bool = True, tokens: bool = False
) -> AsyncIterator[World]:
    """The page ``name`` is open, and there is a session ``s``. The page's origin is allowed, if it is ``welcome``.

    With ``tokens`` the client has one, and the page has none.
    """
    with serving_pages() as origin:
        auth = {"PORTICO_AUTH_TOKENS": "owner:owner-secret"} if tokens else {"PORTICO_AUTH": "none"}
        settings = {**auth, **({"PORTICO_ALLOWED_ORIGINS": origin} if welcome else {})}
        async with (
            running_server(folder, **settings) as server,
            talk(server, "owner-secret" if tokens else None) as client,
            proxy(server.url, list(cuts)) as network,
            chromium() as browser,
        ):
            await client.open(session_id="s")
            page = await (await browser.new_context()).new_page()
            await page.goto(f"{origin}/{name}.html")
            yield World(server, client, page, network)


def turn_of(url: str, query: str) -> str:
    return f"{url}?{urlencode({'query': query, 'turn_id': 'the-turn', 'heartbeat': 1})}"


async def watch(world: World, url: str) -> None:
    await world.page.evaluate("url => watch(url)", url)


def has(kind: str, **fields: Any) -> str:
    """JavaScript: whether the page has seen such an event."""
    wanted = json.dumps({"type": kind, **fields})
    return f"seen.some(data => Object.entries({wanted}).every(([k, v]) => JSON.parse(data)[k] === v))"


async def test_eventsource_comes_back_after_a_cut_and_the_query_runs_once(tmp_path: Path) -> None:
    async with world(tmp_path, "eventsource") as here:
        await watch(here, turn_of(here.stream, SLOW))
        await here.wait("seen.length > 10")
        here.network.go_down()
        await here.wait("errors >= 2")  # the cut, and a first try to come back
        assert "complete" not in [event["type"] for event in await here.seen()]
        here.network.come_back()
        await here.wait("source.readyState === EventSource.CLOSED")
        history = [event for event in await here.client.history("s") if event.get("turn_id") == "the-turn"]
        assert await here.seen() == history
        assert await here.page.evaluate("ids") == [event["seq"] for event in history]
        assert await here.shown() == text(history)
        assert (await here.shown()).split() == (["wörd", "🦊"] * 60)[:60]
        assert here.calls() == 1
        assert (await here.client.session("s"))["turns"] == 1


async def test_eventsource_loses_and_doubles_nothing_wherever_it_is_cut(tmp_path: Path) -> None:
    # After the head, before the first event, in the middle of one, of a later one; then it is let through.
    async with world(tmp_path, "eventsource", 1, 300, 700, 1500, 4000) as here:
        await watch(here, turn_of(here.stream, SLOW))
        await here.wait("source.readyState === EventSource.CLOSED")
        history = [event for event in await here.client.history("s") if event.get("turn_id") == "the-turn"]
        assert await here.seen() == history
        assert here.calls() == 1
        assert here.times_called("/stream/s") >= 6


async def test_eventsource_on_a_finished_turn_ends_with_204(tmp_path: Path) -> None:
    async with world(tmp_path, "eventsource") as here:
        statuses: list[int] = []
        here.page.on("response", lambda response: statuses.append(response.status))
        await watch(here, turn_of(here.stream, script({"say": "short"})))
        await here.wait("source.readyState === EventSource.CLOSED")
        assert statuses == [200, 204]
        assert await here.page.evaluate("opened") == 1
        assert (await here.seen())[-1]["type"] == "complete"


async def test_eventsource_follows_a_session_through_cuts_and_sleep(tmp_path: Path) -> None:
    async with world(tmp_path, "eventsource") as here:
        await watch(here, here.events)
        await here.client.start("s", SLOW)
        await here.wait(has("delta"))
        here.network.go_down()
        await here.client.until("s", "complete")
        here.network.come_back()
        await here.wait(has("complete"))
        here.server.kill_agents()
        await here.wait(has("notice", name="agent_exited"))
        await here.client.turn("s", script({"say": "again"}), turn_id="second")
        await here.wait(has("complete", turn_id="second"))
        last = len(await here.client.history("s"))
        await here.wait(f"seen.length >= {last}")
        assert await here.seen() == await here.client.history("s")
        assert (await here.shown()).endswith("again")


async def test_a_websocket_page_comes_back_after_a_cut_and_sees_each_event_once(tmp_path: Path) -> None:
    async with world(tmp_path, "websocket") as here:
        await watch(here, here.socket)
        await here.page.evaluate("text => query(text)", SLOW)
        await here.wait("seen.length > 10")
        here.network.go_down()
        await here.wait("closes.length >= 2")
        assert "complete" not in [event["type"] for event in await here.seen()]
        here.network.come_back()
        await here.wait(has("complete"))
        await here.wait('JSON.parse(seen.at(-1)).state === "idle"')
        history = await here.client.history("s")
        assert await here.seen() == history
        assert await here.shown() == text(history)
        assert here.calls() == 1
        assert set(await here.page.evaluate("closes")) == {1006}


async def test_a_websocket_page_that_asks_again_after_each_cut_has_asked_once(tmp_path: Path) -> None:
    async with world(tmp_path, "websocket", 200, 400, 700, 1500) as here:
        await watch(here, here.socket)
        await here.page.evaluate("text => query(text)", SLOW)
        await here.wait(has("complete"))
        await here.wait('JSON.parse(seen.at(-1)).state === "idle"')
        assert await here.seen() == await here.client.history("s")
        assert here.calls() == 1
        assert (await here.client.session("s"))["turns"] == 1
        assert here.times_called("/ws/s") == 5


@pytest.mark.parametrize("behavior", ["allow", "deny"])
@pytest.mark.parametrize("name", ["eventsource", "websocket"])
async def test_a_permission_is_answered_in_the_page(tmp_path: Path, name: str, behavior: str) -> None:
    async with world(tmp_path, name) as here:
        target = await here.workspace() / "file.txt"
        tool = {"name": "Write", "input": {"file_path": str(target), "content": "written"}}
        asked = script({"tool": tool}, {"say": "after"})
        if name == "eventsource":
            await watch(here, turn_of(here.stream, asked))
        else:
            await watch(here, here.socket)
            await here.page.evaluate("text => query(text)", asked)
        await here.page.get_by_role("button", name=behavior).click(timeout=MILLISECONDS)
        await here.wait(has("complete"))
        assert target.exists() is (behavior == "allow")
        resolved = only(await here.client.history("s"), "permission_resolved")
        assert resolved["behavior"] == behavior
        assert await here.page.locator("#question").text_content() == f"{behavior} by {resolved['principal']}"
        assert (await here.shown()).endswith("after")


async def ticket(world: World, scope: str) -> str:
    answer = await world.client.http.post("/sessions/s/tickets", json={"scope": scope})
    return str(answer.raise_for_status().json()["ticket"])


async def test_eventsource_asks_comes_back_and_answers_with_a_ticket(tmp_path: Path) -> None:
    async with world(tmp_path, "eventsource", tokens=True) as here:
        await watch(here, turn_of(here.stream, SLOW))
        await here.wait("source.readyState === EventSource.CLOSED")  # without a ticket: 401
        asking = await ticket(here, "query")
        target = await here.workspace() / "file.txt"
        tool = {"name": "Write", "input": {"file_path": str(target), "content": "written"}}
        asked = script({"words": 30, "say": "w ", "gap_ms": 20, "tool": tool}, {"say": "after"})
        await watch(here, f"{turn_of(here.stream, asked)}&ticket={asking}")
        await here.wait("seen.length > 5")
        here.network.go_down()
        await here.wait("errors >= 2")
        here.network.come_back()
        await here.page.get_by_role("button", name="allow").click(timeout=MILLISECONDS)
        await here.wait("source.readyState === EventSource.CLOSED")
        history = [event for event in await here.client.history("s") if event.get("turn_id") == "the-turn"]
        assert await here.seen() == history
        assert history[0]["principal"] == only(history, "permission_resolved")["principal"] == "owner"
        assert target.read_text() == "written"
        assert (await here.client.session("s"))["turns"] == 1
        assert asking not in (tmp_path / "server.log").read_text()


async def test_a_websocket_page_asks_and_comes_back_with_a_ticket(tmp_path: Path) -> None:
    async with world(tmp_path, "websocket", 200, 700, tokens=True) as here:
        await watch(here, f"{here.socket}?ticket={await ticket(here, 'query')}")
        await here.page.evaluate("text => query(text)", SLOW)
        await here.wait(has("complete"))
        await here.wait('JSON.parse(seen.at(-1)).state === "idle"')
        assert await here.seen() == await here.client.history("s")
        assert (await here.client.session("s"))["turns"] == 1
        await here.page.reload()
        await watch(here, f"{here.socket}?ticket={await ticket(here, 'read')}")
        await here.wait(has("complete"))
        await here.page.evaluate("text => query(text)", "more")
        await here.wait("opened === 1")
        assert (await here.client.session("s"))["turns"] == 1
        await here.page.evaluate("socket.close()")
        await watch(here, f"{here.socket}?ticket=wrong")
        await here.wait("closes.includes(4401)")


async def test_a_ticket_does_not_make_a_foreign_page_welcome(tmp_path: Path) -> None:
    async with world(tmp_path, "eventsource", welcome=False, tokens=True) as here:
        asking = await ticket(here, "query")
        await watch(here, f"{turn_of(here.stream, 'hello')}&ticket={asking}")
        await here.wait("source.readyState === EventSource.CLOSED")
        await watch(here, f"{here.events}?ticket={asking}")  # sent, and not shown to the page
        await here.wait("source.readyState === EventSource.CLOSED")
        assert await here.page.evaluate("[seen, opened]") == [[], 0]
        assert (await here.client.session("s"))["turns"] == 0


async def test_two_pages_answer_at_once_and_both_show_who_was_first(tmp_path: Path) -> None:
    async with world(tmp_path, "eventsource") as here:
        other = await here.page.context.new_page()
        await other.goto(here.page.url.replace("eventsource", "websocket"))
        await other.evaluate("url => watch(url)", here.socket)
        target = await here.workspace() / "file.txt"
        tool = {"name": "Write", "input": {"file_path": str(target), "content": "written"}}
        await watch(here, turn_of(here.stream, script({"tool": tool}, {"say": "after"})))
        for page in (here.page, other):
            await page.get_by_role("button", name="allow").wait_for(timeout=MILLISECONDS)
        # Within a page, so that nothing of the test's own lies between the two.
        await here.page.evaluate("document.querySelectorAll('button')[0].click()")
        await other.evaluate("document.querySelectorAll('button')[1]?.click()")
        await here.wait(has("complete"))
        resolved = only(await here.client.history("s"), "permission_resolved")
        for page in (here.page, other):
            told = await page.locator("#question").text_content()
            assert told == f"{resolved['behavior']} by {resolved['principal']}"
        assert target.exists() is (resolved["behavior"] == "allow")


UNASKED = """
async url => {
  const hello = {method: "POST", mode: "no-cors", body: '{"query": "hello"}'}
  await fetch(url, hello).catch(() => "it is not even told that this arrived")
  await new Promise(done => Object.assign(new Image(), {onerror: done, onload: done, src: `${url}?query=hello`}))
}
"""
"""Requests that a page may send without a preflight request of the browser."""


async def test_a_page_of_a_foreign_origin_can_do_and_read_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, "eventsource", welcome=False) as here:
        await watch(here, turn_of(here.stream, "hello"))
        await here.wait("source.readyState === EventSource.CLOSED")
        await here.page.evaluate(UNASKED, here.stream)
        told = await here.page.evaluate(
            "url => post(url, {query: 'hello'}).then(() => 'answered', String)", here.stream
        )
        assert told == "TypeError: Failed to fetch"
        await watch(here, here.events)  # to read is refused by the browser
        await here.wait("source.readyState === EventSource.CLOSED")
        assert await here.page.evaluate("[seen, opened]") == [[], 0]
        await here.page.goto(here.page.url.replace("eventsource", "websocket"))
        await watch(here, here.socket)
        await here.wait("closes.length >= 2")
        assert await here.page.evaluate("[opened, closes.every(code => code === 1006)]") == [0, True]
        log = (tmp_path / "server.log").read_text()  # they did arrive
        for refused in ("GET /claude/stream", "POST /claude/stream", "OPTIONS /claude/stream", "WEBSOCKET /claude/ws"):
            assert f"{refused}/s 403 " in log
        assert here.calls() == 0
        assert (await here.client.session("s"))["turns"] == 0

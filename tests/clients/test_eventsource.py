"""The page's program for browsers, in a real browser."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest

from benchmarks.servers import HEADERS, portico
from compat.snippets import read
from tests.support.limits import HANG_SECONDS
from tests.support.proxy import proxy

pytest.importorskip("playwright", reason="playwright is not installed")

from tests.support.browser import chromium, needs_chromium, serving_pages

pytestmark = [pytest.mark.anyio, pytest.mark.long, needs_chromium]

PAGE = """async ([api, session, ticket, query]) => {
  const seen = [], show = event => seen.push(event)
  %s
  while (source.readyState !== EventSource.CLOSED) await new Promise(resolve => setTimeout(resolve, 50))
  return seen
}"""


async def test_a_page_shows_each_event_once_and_closes_at_complete() -> None:
    (snippet,) = [snippet for snippet in read() if snippet.language == "browser"]
    query = json.dumps({"deltas": 30, "gap": 0.1})
    with serving_pages() as origin, portico(driver="echo", allowed_origins=origin) as server:
        api, session = f"{server.url}/claude", uuid.uuid4().hex
        async with (
            httpx.AsyncClient(headers=HEADERS, timeout=HANG_SECONDS, trust_env=False) as client,
            proxy(server.url, [b'"seq":9,', b"\nid: 14", 0.75]) as network,
            chromium() as browser,
        ):
            await client.post(f"{api}/sessions", json={"session_id": session})
            answer = await client.post(f"{api}/sessions/{session}/tickets", json={"scope": "query"})
            page = await (await browser.new_context()).new_page()
            await page.goto(f"{origin}/eventsource.html")
            given = [f"{network.url}/claude", session, answer.json()["ticket"], query]
            seen = await page.evaluate(PAGE % snippet.text, given)
            page_of = await client.get(f"{api}/sessions/{session}/events?live=false")
            assert seen == [event for event in page_of.json()["events"] if "turn_id" in event]
            assert [event["type"] for event in seen][:: len(seen) - 1] == ["query", "complete"]
            assert sum("/stream/" in line for line in network.requests) >= 3

"""The page /docs in a real browser."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from tests.support.browser import chromium, needs_chromium
from tests.support.serving import serving

pytestmark = [
    pytest.mark.anyio,
    needs_chromium,
]


async def test_the_page_shows_itself_on_a_phone_and_asks_nobody_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, chromium() as browser:
        context = await browser.new_context(viewport={"width": 360, "height": 640})
        page = await context.new_page()
        complaints: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"{served.url}/docs")
        assert await page.title() == await page.locator("h1").text_content()
        assert await page.evaluate("document.styleSheets[0].cssRules.length > 0 && document.scripts.length === 0")
        # Its own style is in force, which the policy would have kept out if its hash were wrong.
        assert await page.evaluate("getComputedStyle(document.querySelector('summary')).cursor") == "pointer"
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        answers = page.locator("#createSession table").last
        assert not await answers.is_visible()
        await page.locator("#createSession > summary").click()
        assert await answers.is_visible() and "session_exists" in await answers.inner_text()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.locator("#createSession a[href='#schema-SessionBody']").first.click()
        assert urlsplit(page.url).fragment == "schema-SessionBody"
        assert await page.locator("#schema-SessionBody").is_visible()
        await page.locator("a[href='openapi.json']").click()
        await page.wait_for_load_state()
        assert '"openapi":"3.1' in (await page.content())
        assert complaints == []
        assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {urlsplit(served.url).netloc}

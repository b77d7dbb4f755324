"""A real browser, Debian's Chromium without a window, and the pages that it opens."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from playwright.async_api import Browser, async_playwright

from tests.support.programs import needs

needs_chromium = needs("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
PAGES = Path(__file__).parents[1] / "browser"


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    """With a user's folder of its own, which is deleted at the end."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving_pages() -> Iterator[str]:
    """The pages in tests/browser/, at an origin of their own, which is yielded."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(PAGES))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

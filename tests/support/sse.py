"""Reads server-sent events as a browser does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


async def events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream; each one's ``id`` is checked against its ``seq``."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    last_id = ""
    async for line in answer.aiter_lines():
        if line.startswith("id: "):
            last_id = line[4:]
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            assert str(event["seq"]) == last_id
            yield event

"""Reads server-sent events as a browser does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


async def events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream; each one's ``id`` is checked against its ``seq``, and no blank line is without one."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found: dict[str, str] = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if line:
            found[name] = value
            continue
        event = json.loads(found.pop("data"))
        assert str(event["seq"]) == found.pop("id")
        yield event

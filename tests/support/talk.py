"""A client that does what the README says with curl."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer
from tests.support.sse import events

Event = dict[str, Any]


def script(*steps: Mapping[str, Any]) -> str:
    """A query that makes the scripted model do these steps."""
    return f"[[{', '.join(json.dumps(step) for step in steps)}]]"


class Talk:
    """Speaks to one server as one principal."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def open(self, **body: Any) -> dict[str, Any]:
        answer = await self.http.post("/sessions", json=body)
        assert answer.status_code == 201, answer.text
        session: dict[str, Any] = answer.json()
        return session

    async def purge_all(self) -> None:
        """Purge every session that this principal sees, so that the next test may use their ids."""
        for session in (await self.http.get("/sessions")).raise_for_status().json()["sessions"]:
            purged = await self.http.delete(f"/sessions/{session['session_id']}?purge=true")
            assert purged.status_code == 204, purged.text

    async def session(self, session_id: str) -> dict[str, Any]:
        session: dict[str, Any] = (await self.http.get(f"/sessions/{session_id}")).raise_for_status().json()
        return session

    async def turn(self, session_id: str, query: str, **body: Any) -> list[Event]:
        """All events of a turn, from its query to its complete."""
        async with self.http.stream("POST", f"/stream/{session_id}", json={"query": query, **body}) as answer:
            return [event async for event in events(answer)]

    async def start(self, session_id: str, query: str, **body: Any) -> dict[str, Any]:
        answer = await self.http.post(f"/sessions/{session_id}/turns", json={"query": query, **body})
        assert answer.status_code == 202, answer.text
        turn: dict[str, Any] = answer.json()
        return turn

    async def history(self, session_id: str) -> list[Event]:
        url = f"/sessions/{session_id}/events?live=false&limit=5000"
        found: list[Event] = (await self.http.get(url)).raise_for_status().json()["events"]
        return found

    @asynccontextmanager
    async def follow(self, session_id: str, after: int = 0) -> AsyncIterator[AsyncIterator[Event]]:
        async with self.http.stream("GET", f"/sessions/{session_id}/events?after={after}") as answer:
            yield events(answer)

    async def until(self, session_id: str, wanted: str, after: int = 0, **fields: Any) -> Event:
        """The first event of this type, with these values, behind ``after``."""
        with anyio.fail_after(HANG_SECONDS):
            async with self.follow(session_id, after) as following:
                async for event in following:
                    if event["type"] == wanted and fields.items() <= event.items():
                        return event
        raise AssertionError(f"the stream ended without {wanted}")

    async def answer(self, session_id: str, request_id: str, **body: Any) -> httpx.Response:
        return await self.http.post(f"/sessions/{session_id}/permissions/{request_id}", json=body)


@asynccontextmanager
async def talk(server: RunningServer, token: str | None = None) -> AsyncIterator[Talk]:
    async with server.http() as http:
        if token is not None:
            http.headers["Authorization"] = f"Bearer {token}"
        yield Talk(http)


def text(found: list[Event]) -> str:
    """Return the streamed text."""
    return "".join(event["content"] for event in found if event["type"] == "delta")


def only(found: list[Event], wanted: str) -> Event:
    (event,) = [event for event in found if event["type"] == wanted]
    return event


class Stopwatch:
    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

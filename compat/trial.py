"""One program, one question, over a network that may break: a trial, and a report of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
from anyio.abc import ByteReceiveStream, Process

from benchmarks.servers import HEADERS, TOKEN
from tests.support.proxy import Cut, proxy

REST_SECONDS = 120.0
"""The limit of each request for what the server knows of it."""


@dataclass(frozen=True, slots=True)
class Report:
    """The answer that a program got.

    ``printed`` are its lines, ``status`` is None if it had to be killed, ``complaints`` is its standard error.
    ``requests`` counts its connections, ``turns`` those that the server ran. ``history`` has the events of
    the first one, as the server keeps them.
    """

    printed: list[str]
    status: int | None
    complaints: str
    requests: int
    turns: int
    history: list[dict[str, Any]]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its lines, but for those that are no JSON: an event without data, or half an event."""
        found = []
        for line in self.printed:
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    @property
    def empty(self) -> int:
        return sum(not line for line in self.printed)

    @property
    def is_exact(self) -> bool:
        """It has all events, each once, in order, and byte by byte what the server says of them."""
        return self.events == self.history

    def __str__(self) -> str:
        """Two or three words; "ok" where nothing is to be said."""
        got, wanted = [event.get("seq") for event in self.events], [event["seq"] for event in self.history]
        lost, more = len({*wanted} - {*got}), len(got) - len({*got})
        words = [f"{lost} of {len(wanted)} lost"] if lost else []
        words += [f"{more} twice"] if more else []
        words += ["not exact"] if not lost and not more and not self.is_exact else []
        words += [f"{self.turns} turns run"] if self.turns != 1 else []
        words += ["does not end"] if self.status is None else [f"ends with {self.status}"] if self.status else []
        return ", ".join(words) or "ok"


async def ask(
    argv: Sequence[str],
    url: str,
    query: str,
    *cuts: Cut,
    seconds: float,
    rewrite: Callable[[bytes], bytes] = bytes,
) -> Report:
    """Run a program of docs/clients.md on the server at ``url``, in a session of its own, for ``seconds`` at most.

    Its connections are cut as ``cuts`` say, each by the next one; ``rewrite`` changes its requests.
    """
    session_id = uuid.uuid4().hex
    async with (
        httpx.AsyncClient(base_url=f"{url}/claude", headers=HEADERS, timeout=REST_SECONDS, trust_env=False) as client,
        proxy(url, cuts, rewrite) as network,
    ):
        (await client.post("/sessions", json={"session_id": session_id})).raise_for_status()
        printed, status, complaints = await run_program(argv, network.url, session_id, query, seconds)
        found, page = [], {"next_after": 0, "has_more": True}
        while page["has_more"]:
            path = f"/sessions/{session_id}/events?live=false&after={page['next_after']}"
            page = (await client.get(path)).raise_for_status().json()
            found += page["events"]
        (await client.delete(f"/sessions/{session_id}?purge=true")).raise_for_status()
    queries = [event for event in found if event["type"] == "query"]
    history = [event for event in found if queries and event.get("turn_id") == queries[0]["turn_id"]]
    return Report(printed, status, complaints, len(network.requests), len(queries), history)


async def run_program(
    argv: Sequence[str], url: str, session_id: str, query: str, seconds: float
) -> tuple[list[str], int | None, str]:
    """Return its lines, its status (None: it had to be killed), and its standard error."""
    output, complaints, status = bytearray(), bytearray(), None
    given = {"API": f"{url}/claude", "TOKEN": TOKEN, "SESSION": session_id, "QUERY": query}
    async with AsyncExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="pc-"))
        environment = {"PATH": os.environ["PATH"], "HOME": home, **given}
        process = await anyio.open_process(argv, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        await stack.enter_async_context(process)
        try:
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as tasks:
                    assert process.stdout is not None and process.stderr is not None
                    tasks.start_soon(_collect, process.stdout, output)
                    tasks.start_soon(_collect, process.stderr, complaints)
                    status = await process.wait()
        finally:
            _end(process)
    return output.decode().splitlines(), status, complaints.decode(errors="replace")


async def _collect(stream: ByteReceiveStream, into: bytearray) -> None:
    async for data in stream:
        into += data


def _end(process: Process) -> None:
    """Kill it with all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

"""Asks a server through a proxy, and notes what a client sees of it."""

from __future__ import annotations

import json
import ssl
import statistics
import subprocess
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

HOST = "portico.example"
CLIENT = "127.0.0.2"
"""The address that clients come from: one of loopback's that is not the proxies' own."""
FORGED = "203.0.113.9"
SILENCE = 75.0
BODY, PIECE = 20 * 1024 * 1024, 64 * 1024
URL = 30_000
"""Bytes of a question in a URL."""
ANSWER_SECONDS = 60.0
"""For one answer of the server's, or for one event."""
HEAD_SECONDS = 5.0
"""For the head of a stream, which one that holds everything back never passes on."""
GONE_SECONDS = 70.0
"""For a proxy to notice that a client has left."""

_FAILURES = (OSError, httpx.HTTPError, WebSocketException, TimeoutError, ValueError, anyio.BrokenResourceError)


@dataclass(slots=True)
class Facts:
    """All that was seen through one proxy, with one configuration. A field of a measure that failed says how."""

    proxy: str
    configuration: str
    build: str = ""
    version: str = ""
    late: dict[str, float] | str = "not measured"
    """Milliseconds: p50, p99 and max; and the number of events."""
    direct: dict[str, float] | str = "not measured"
    """The same events without a proxy."""
    http2: dict[str, float] | str = "not measured"
    """The same of curl, which speaks HTTP/2; only over TLS."""
    websocket: dict[str, str] = field(default_factory=dict)
    """By form: ``plain`` and ``v1``."""
    silence: dict[str, str] = field(default_factory=dict)
    """By kind: ``sse``, ``plain`` and ``v1``."""
    body: str = ""
    url: str = ""
    own_origin: str = ""
    foreign_origin: str = ""
    address: str = ""
    location: str = ""
    """That of a new session, whose client has sent a prefix of its own."""
    gone: str = ""
    logged: list[str] = field(default_factory=list)
    """Of ``ticket`` and ``question``, those that are in the proxy's logs."""
    trouble: str = ""


class Client:
    """Speaks to the server as one principal, at ``url``, which is a proxy's or the server's own."""

    def __init__(
        self,
        url: str,
        token: str,
        trust: ssl.SSLContext | None = None,
        *,
        uds: Path | None = None,
        prefix: str = "",
    ) -> None:
        self.url, self._trust = url, trust
        self.api = f"{prefix}/claude"
        self.headers = {"Authorization": f"Bearer {token}", "Host": HOST}
        if uds:  # whoever comes through it is taken for a proxy
            self.headers["X-Forwarded-For"] = CLIENT
        through = httpx.AsyncHTTPTransport(
            verify=trust or False,
            limits=httpx.Limits(),
            local_address=None if uds else CLIENT,
            uds=None if uds is None else str(uds),
        )
        self.http = httpx.AsyncClient(
            base_url=url, headers=self.headers, timeout=ANSWER_SECONDS, transport=through, trust_env=False
        )

    @property
    def origin(self) -> str:
        """The origin of a page that a browser has got from there."""
        return f"{httpx.URL(self.url).scheme}://{HOST}"

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        extensions = {"sni_hostname": HOST} if self._trust else {}
        return await self.http.request(method, f"{self.api}{path}", extensions=extensions, **options)

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """A stream, which may be silent for ever."""
        timeout = httpx.Timeout(ANSWER_SECONDS, read=None)
        extensions = (
            {"sni_hostname": HOST, "timeout": timeout.as_dict()} if self._trust else {"timeout": timeout.as_dict()}
        )
        async with self.http.stream(method, f"{self.api}{path}", extensions=extensions, **options) as answer:
            if answer.status_code != 200:
                raise ValueError(await refusal(answer))
            yield answer

    @asynccontextmanager
    async def websocket(self, path: str, *, v1: bool) -> AsyncIterator[ClientConnection]:
        address = f"{self.url.replace('http', 'ws', 1)}{self.api}{path}"
        uri = httpx.URL(address).copy_with(host=HOST)
        protocols = [Subprotocol("portico.v1")] if v1 else None
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        port = uri.port or 80
        async with connect(
            str(uri.copy_with(port=None)),
            additional_headers=headers,
            subprotocols=protocols,
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=2,
            open_timeout=ANSWER_SECONDS,
            host="127.0.0.1",
            port=port,
            local_addr=(CLIENT, 0),
            ssl=self._trust,
        ) as connection:
            yield connection


async def refusal(answer: httpx.Response) -> str:
    """Return the status, and the code of the server's or whatever else the body is."""
    body = await answer.aread()
    with suppress(ValueError, KeyError, TypeError):
        return f"{answer.status_code} {json.loads(body)['code']}"
    kind = answer.headers.get("content-type", "").partition(";")[0]
    return f"{answer.status_code} {kind or 'without a body'}".strip()


async def noting(measure: Callable[[], Coroutine[Any, Any, str]]) -> str:
    """Return what ``measure`` says, or how it has failed."""
    try:
        with anyio.fail_after(SILENCE + GONE_SECONDS):
            return await measure()
    except InvalidStatus as refused:
        body = refused.response.body or b""
        with suppress(ValueError, KeyError, TypeError):
            return f"{refused.response.status_code} {json.loads(body)['code']}"
        return f"{refused.response.status_code} {'' if body else 'without a body'}".strip()
    except ValueError as answered:
        return str(answered)
    except _FAILURES as failure:
        return f"{type(failure).__name__} {failure}".strip()


async def events(received: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    async for data in received:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


Arrivals = list[tuple[bytes, float]]
"""Bytes of a stream, and when they came. They are read when all is over, so that this takes no time of others."""


async def follow(client: Client, session: str, turn: dict[str, str], begun: anyio.Event) -> Arrivals | str:
    """Follow a turn, which this starts or attaches to; set ``begun`` once its first bytes are there."""
    found: Arrivals = []

    async def run() -> str:
        async with client.stream("POST", f"/stream/{session}", json=turn) as answer:
            async for data in answer.aiter_bytes():
                found.append((data, time.time()))
                begun.set()
        return ""

    trouble = await noting(run)
    begun.set()
    return trouble or found


async def follow_over_http2(
    client: Client, session: str, turn: dict[str, str], cafile: Path, begun: anyio.Event
) -> Arrivals | str:
    """The same as browsers do it over TLS: with HTTP/2, by curl."""
    found: Arrivals = []
    port = httpx.URL(client.url).port

    async def run() -> str:
        argv = [
            *("curl", "-sSN", "--http2", "--interface", CLIENT, "--cacert", str(cafile), "-w", "HTTP/%{http_version}"),
            *("--resolve", f"{HOST}:{port}:127.0.0.1", "-H", f"Authorization: {client.headers['Authorization']}"),
            *("--json", json.dumps(turn), f"https://{HOST}:{port}{client.api}/stream/{session}"),
        ]
        async with await anyio.open_process(argv, stdin=subprocess.DEVNULL) as curl:
            try:
                assert curl.stdout is not None
                async for data in curl.stdout:
                    found.append((data, time.time()))
                    begun.set()
                await curl.wait()
            finally:
                if curl.returncode is None:
                    curl.kill()
        said = b"".join(data for data, _ in found)[-200:]
        return "" if said.endswith(b"HTTP/2") else f"curl: {said.decode(errors='replace')}"

    trouble = await noting(run)
    begun.set()
    return trouble or found


def late(found: Arrivals | str, since: float) -> dict[str, float] | str:
    """Return milliseconds, and a number of events: of those that were made after ``since``."""
    if isinstance(found, str):
        return found
    ages, rest = [], b""
    for data, came in found:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                made = datetime.fromisoformat(json.loads(line[6:])["time"]).timestamp()
                ages += [max(0.0, (came - made) * 1000)] if made > since else []
    if len(ages) < 2:
        return f"{len(ages)} events"
    cuts = statistics.quantiles(ages, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "max": max(ages), "events": len(ages)}


async def converse(client: Client, path: str, v1: bool, rest: float = 0.0) -> str:
    """Ask over a WebSocket, after ``rest`` seconds in which the client says nothing."""
    async with client.websocket(path, v1=v1) as socket:
        began = time.monotonic()
        with suppress(TimeoutError):
            while True:
                with anyio.fail_after(rest - (time.monotonic() - began)):
                    await socket.recv()
        await socket.send(json.dumps({"type": "query", "content": "hello"}) if v1 else "hello")
        with anyio.fail_after(ANSWER_SECONDS):
            while json.loads(await socket.recv())["type"] != "complete":
                pass
    return "works"


async def watch_silently(client: Client, session: str) -> str:
    """Hold a stream on which nothing comes but heartbeats; then have the session do a turn, and see it there."""
    began = time.monotonic()
    end: dict[str, float] = {}
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            await anyio.sleep(SILENCE)
            with suppress(*_FAILURES):
                await client.ask("POST", f"/sessions/{session}/turns", json={"query": "awake"})
            end["asked"] = time.monotonic()
            await anyio.sleep(ANSWER_SECONDS)
            tasks.cancel_scope.cancel()

        tasks.start_soon(ask)
        try:
            async with client.stream("GET", f"/sessions/{session}/events?after=0") as answer:
                async for event in events(answer.aiter_bytes()):
                    if event["type"] == "complete":
                        end["seen"] = time.monotonic()
                        break
            end.setdefault("cut", time.monotonic())
        except _FAILURES:
            end["cut"] = time.monotonic()
        tasks.cancel_scope.cancel()
    if "seen" in end:
        return "lives"
    return f"cut after {end['cut'] - began:.0f} s" if "cut" in end else "nothing arrives"


async def leave(client: Client, session: str, ended: Callable[[], bool]) -> str:
    """Open a stream and leave; return the seconds until the server has noticed."""
    with anyio.move_on_after(HEAD_SECONDS):
        async with client.stream("GET", f"/sessions/{session}/events?after=0") as answer:
            async for _ in answer.aiter_bytes():
                break
    left = time.monotonic()
    with anyio.move_on_after(GONE_SECONDS):
        while not ended():
            await anyio.sleep(0.1)
        return f"{time.monotonic() - left:.1f} s"
    return f"not within {GONE_SECONDS:.0f} s"


async def send_body(client: Client, session: str) -> str:
    async def content() -> AsyncIterator[bytes]:
        query = json.dumps({"query": "hello"}).encode()
        yield query
        left = BODY - len(query)
        while left:
            yield b" " * min(left, PIECE)
            left -= min(left, PIECE)

    headers = {"Content-Type": "application/json", "Content-Length": str(BODY)}
    answer = await client.ask("POST", f"/sessions/{session}/turns", content=content(), headers=headers)
    return "202" if answer.status_code == 202 else await refusal(answer)


async def ask_in_url(client: Client, session: str) -> str:
    async with client.stream("GET", f"/stream/{session}?query={'x' * URL}") as answer:
        async for event in events(answer.aiter_bytes()):
            if event["type"] == "complete":
                return "200"
    return "no complete"


async def come_from(client: Client, session: str, origin: str) -> str:
    """Ask as a browser does for a page of this origin."""
    headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin" if origin == client.origin else "cross-site"}
    answer = await client.ask("POST", f"/sessions/{session}/turns", json={"query": "hello"}, headers=headers)
    return "202" if answer.status_code == 202 else await refusal(answer)


async def open_session(client: Client, session: str) -> str:
    """Return the path of the new session as the server tells it."""
    headers = {"X-Forwarded-Prefix": "/forged"}
    answer = await client.ask("POST", "/sessions", json={"session_id": session, "driver": "echo"}, headers=headers)
    return answer.headers.get("location", "") if answer.status_code == 201 else await refusal(answer)


async def tell_secrets(client: Client, session: str) -> dict[str, str]:
    """Send a ticket and a question in URLs; return both."""
    question = f"question-of-{session}"
    made = await client.ask("POST", f"/sessions/{session}/tickets", json={"scope": "query"})
    secrets = {"ticket": str(made.json()["ticket"]), "question": question}
    await repeat_secrets(client, session, secrets)
    return secrets


async def repeat_secrets(client: Client, session: str, secrets: dict[str, str]) -> None:
    """Send them again, whatever comes of it."""
    query = f"ticket={secrets['ticket']}&query={secrets['question']}"
    with suppress(*_FAILURES):
        await client.ask("GET", f"/stream/{session}?{query}&turn_id=told")
    with suppress(*_FAILURES):
        async with client.websocket(f"/ws/{session}?{query}", v1=True):
            pass

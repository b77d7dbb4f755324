"""Clients of real libraries, with the limits that these have, follow events that are far larger than they take."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from compat.snippets import Snippet
from compat.toolchains import BUILD_SECONDS, INSTALL_SECONDS, Unavailable, build
from portico.core.events import Delta, encode_json
from portico.testing.scripted import ScriptedDriver, turn
from tests.support.limits import HANG_SECONDS
from tests.support.serving import Served, serving

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(INSTALL_SECONDS + BUILD_SECONDS + HANG_SECONDS)]

TEXTS = ("small", "word \n" * 60_000, "é" * 300_000, "x" * 1_300_000, "y" * 5_000_000, "end")

SCANNER = """package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strings"
)

func main() {
	request, err := http.NewRequest("GET", "http"+os.Getenv("SERVER")+os.Getenv("STREAM"), nil)
	if err != nil {
		panic(err)
	}
	request.Header.Set("Authorization", "Bearer alice-secret")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if data, found := strings.CutPrefix(lines.Text(), "data: "); found {
			fmt.Println(data)
		}
	}
	if lines.Err() != nil {
		panic(lines.Err())
	}
}
"""
CODER = """package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/coder/websocket"
)

func main() {
	header := http.Header{"Authorization": {"Bearer alice-secret"}}
	options := &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"portico.v1"}}
	socket, _, err := websocket.Dial(context.Background(), "ws"+os.Getenv("SERVER")+os.Getenv("SOCKET"), options)
	if err != nil {
		panic(err)
	}
	for {
		_, data, err := socket.Read(context.Background())
		if err != nil {
			panic(err)
		}
		fmt.Println(string(data))
		if strings.Contains(string(data), `"type":"complete"`) {
			return
		}
	}
}
"""
LINES = """import asyncio, os, aiohttp

async def main():
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer alice-secret"}) as session:
        async with session.get("http" + os.environ["SERVER"] + os.environ["STREAM"]) as answer:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    print(line[6:].decode(), end="")

asyncio.run(main())
"""
SOCKET = """import asyncio, os, aiohttp

async def main():
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer alice-secret"}) as session:
        url = "ws" + os.environ["SERVER"] + os.environ["SOCKET"]
        async with session.ws_connect(url, protocols=["portico.v1"]) as socket:
            async for message in socket:
                print(message.data)
                if '"type":"complete"' in message.data:
                    break

asyncio.run(main())
"""
SYNC = """import os
from websockets.sync.client import connect

headers = {"Authorization": "Bearer alice-secret"}
with connect("ws" + os.environ["SERVER"] + os.environ["SOCKET"], additional_headers=headers) as socket:
    for message in socket:
        print(message)
        if '"type":"complete"' in message:
            break
"""
CODER_PACKAGE, AIOHTTP, WEBSOCKETS = "github.com/coder/websocket@v1.8.15", "aiohttp==3.14.5", "websockets==17.4"
CLIENTS: Mapping[str, tuple[Snippet, int]] = {
    "bufio.Scanner": (Snippet("scanner/main.go", "go", (CODER_PACKAGE,), SCANNER), 65_536),
    "coder/websocket": (Snippet("coder/main.go", "go", (CODER_PACKAGE,), CODER), 32_768),
    "aiohttp, lines": (Snippet("with_lines.py", "python", (AIOHTTP,), LINES), 500_000),
    "aiohttp, WebSocket": (Snippet("with_socket.py", "python", (AIOHTTP,), SOCKET), 4_000_000),
    "websockets, sync": (Snippet("with_sync.py", "python", (WEBSOCKETS,), SYNC), 1_000_000),
}


async def follow(served: Served, snippet: Snippet, max_event: int) -> list[bytes]:
    """The events that the client has got, one a line."""
    together = [other for other, _ in CLIENTS.values() if other.language == snippet.language]
    try:
        programs = await anyio.to_thread.run_sync(build, snippet.language, together, str(os.getppid()))
    except Unavailable as why:
        pytest.skip(str(why))
    asked = {
        "SERVER": served.url.removeprefix("http"),
        "STREAM": f"/claude/stream/s?query=q&turn_id=t&max_event={max_event}",
        "SOCKET": f"/claude/ws/s?after=0&max_event={max_event}",
    }
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(programs[snippet.name], env={**os.environ, **asked}, stderr=sys.stderr)
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_with_a_limit_gets_all_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("GOCACHE", os.environ.get("GOCACHE") or str(Path("~/.cache/go-build").expanduser()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("~/.cache/portico-limited").expanduser()))
    driver = ScriptedDriver([turn(*(Delta(type="delta", content=text) for text in TEXTS))])
    async with serving(tmp_path, driver=driver) as served:
        await served.session()
        await served.run("hello")
        snippet, max_event = CLIENTS[name]
        found = [json.loads(line) for line in await follow(served, snippet, max_event)]
        seqs = [event["seq"] for event in found]
        assert seqs == sorted(set(seqs))
        told = [event for event in found if event["type"] == "delta"]
        assert len(told) == len(TEXTS)
        for event, text in zip(told, TEXTS, strict=True):
            assert text.startswith(event["content"])
            cut = {} if event["content"] == text else {"/content": len(text.encode())}
            assert event.get("cut", {}) == cut
            assert len(encode_json(event)) <= max_event
        assert any("cut" in event for event in told)

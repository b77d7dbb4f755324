"""Time to the first token, warm and cold, against the bare CLI over pipes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.model import scripted_model
from benchmarks.row import Row
from benchmarks.servers import HEADERS, portico
from portico.plugins.claude_code.cli import find_cli

RUNS = 20


FLAGS = (
    *("--output-format=stream-json", "--verbose", "--input-format=stream-json", "--include-partial-messages"),
    *("--permission-prompt-tool=stdio", "--setting-sources=", "--strict-mcp-config"),
)


class BareCli:
    """The CLI as anybody would start it, with the flags that streaming needs."""

    def __init__(self, model: str, folder: Path, resume: str | None = None) -> None:
        self.session_id = resume or str(uuid.uuid4())
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ANTHROPIC_BASE_URL": model,
            "ANTHROPIC_API_KEY": "k",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }
        self._child = subprocess.Popen(
            [
                str(find_cli(None, os.environ["PATH"])),
                *FLAGS,
                f"--resume={resume}" if resume else f"--session-id={self.session_id}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=folder,
        )

    def turn(self) -> float:
        """Runs a turn; when its first text came, on the clock."""
        assert self._child.stdin is not None and self._child.stdout is not None
        message = {"type": "user", "message": {"role": "user", "content": "hello"}}
        self._child.stdin.write(json.dumps(message).encode() + b"\n")
        self._child.stdin.flush()
        first = 0.0
        for line in self._child.stdout:
            if not first and b"text_delta" in line:
                first = time.perf_counter()
            if b'"type":"result"' in line:
                return first
        raise RuntimeError("the CLI ended")

    def close(self) -> None:
        self._child.communicate(timeout=30)


def measure() -> list[Row]:
    with (
        scripted_model() as model,
        tempfile.TemporaryDirectory(prefix="portico-bench-") as folder,
        portico(anthropic_base_url=model, anthropic_api_key="k", max_sessions=2 * RUNS) as server,
        httpx.Client(headers=HEADERS, timeout=60, base_url=f"{server.url}/claude") as client,
    ):
        cold = [(_cold(client), _bare_cold(model, Path(folder))) for _ in range(RUNS)]
        bare = BareCli(model, Path(folder))
        client.post("/sessions", json={"session_id": "warm"}).raise_for_status()
        for _ in range(3):
            bare.turn()
            first_token(client, "warm")
        warm = [(_timed(lambda: first_token(client, "warm")), _timed(bare.turn)) for _ in range(RUNS)]
        bare.close()
    return [_row("first token, warm turn / bare CLI", warm), _row("first token, cold session / bare CLI", cold)]


def _row(name: str, pairs: list[tuple[float, float]]) -> Row:
    ours, bare = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    return Row(name, ours / bare, "x", 1.15, f"{ours:.0f} ms against {bare:.0f} ms, median of {RUNS}")


def _timed(turn: Callable[[], float]) -> float:
    began = time.perf_counter()
    return turn() - began


def first_token(client: httpx.Client, session_id: str) -> float:
    """Runs a turn; when its first text came, on the clock."""
    first = 0.0
    with client.stream("POST", f"/stream/{session_id}", json={"query": "hello"}) as stream:
        for line in stream.iter_lines():
            if not first and '"type":"delta"' in line:
                first = time.perf_counter()
    return first


def _cold(client: httpx.Client) -> float:
    began = time.perf_counter()
    session_id = client.post("/sessions", json={}).json()["session_id"]
    took = first_token(client, session_id) - began
    client.delete(f"/sessions/{session_id}").raise_for_status()
    return took


def _bare_cold(model: str, folder: Path) -> float:
    began = time.perf_counter()
    bare = BareCli(model, folder)
    took = bare.turn() - began
    bare.close()
    return took

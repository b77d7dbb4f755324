"""The table of the CLI's lines and control requests is whole, and says of each kind what the real CLI shows."""

from __future__ import annotations

import json
import mmap
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from portico.core.agent import Decision
from portico.plugins.claude_code.items import Send
from portico.plugins.claude_code.protocol import Protocol
from portico.plugins.demo.model_server import serve_model
from tests import cli_lines
from tests.support.agents import real_cli
from tests.support.claude import script, tool
from tests.support.limits import HANG_SECONDS

pytestmark = [pytest.mark.real_cli, pytest.mark.long]

VARIABLE = "PORTICO_TEST_CLAUDE"
"""Names another `claude` to test."""

SCHEMA = re.compile(rb'\{(type|subtype):([\w$]{1,3})\("([a-z_]+)"\)(?:,subtype:\2\("([a-z_]+)"\))?')
HANDLED = re.compile(rb'\brequest\.subtype==="([a-z_]+)"')
"""The places where the program handles a control request: some have no schema."""

STRING = re.compile(rb"""("|'|`)(?:\\.|(?!\1).)*\1""", re.DOTALL)
STDOUT = re.compile(rb"Everything the CLI writes to its output stream")

BYSTANDERS = frozenset({"success", "error"})
"""Names in the schemas that are no kinds of lines or requests."""

REFUSED = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "cyber"}}
FALLBACK = "claude-sonnet-5"


def program() -> Path:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else real_cli()


def schemas(cli: Path) -> tuple[set[str], set[str]]:
    """The kinds of lines and of control requests in the program's schemas."""
    lines, requests = set(), set()
    with cli.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        end = max(found.start() for found in STDOUT.finditer(text))
        for found in SCHEMA.finditer(text, end - 1_000_000, end):
            kind, name, subtype = found[1], found[3].decode(), (found[4] or b"").decode()
            if kind == b"subtype":
                requests.add(name)
            elif name == "system":
                lines.add(f"system/{subtype}")
            elif b"session_id:" in _object(text[found.start() : found.start() + 100_000]):
                lines.add(name)
        requests |= {found[1].decode() for found in HANDLED.finditer(text)}
    return lines, requests


def _object(text: bytes) -> bytes:
    """The object that begins ``text``, which is JavaScript, without its strings."""
    bare = STRING.sub(b"", text)
    depth = 0
    for place, character in enumerate(bare):
        depth += (character in b"{([") - (character in b"})]")
        if not depth:
            return bare[:place]
    return bare


def test_the_table_has_all_that_is_in_the_schemas_of_the_cli() -> None:
    lines, requests = schemas(program())
    assert len(lines) > 90 and len(requests) > 90
    control = {"control_request", "control_response", "control_cancel_request", "keep_alive"}
    known = cli_lines.all_lines()
    assert (lines | control) - known == set() and known - lines - control == {"transcript_mirror", "user"}
    asked = requests - BYSTANDERS
    assert asked - cli_lines.all_requests() == set()
    assert cli_lines.all_requests() - asked <= cli_lines.SINCE_2_1_332


class Tour:
    """A raw CLI, and the protocol that reads its lines. ``heard`` tells of each kind if a line of it meant anything."""

    def __init__(self, process: Process, protocol: Protocol) -> None:
        self.process = process
        self.protocol = protocol
        self.heard: dict[str, bool] = {}
        self.asked: set[str] = set()
        self.answers: dict[str, str] = {}
        assert process.stdout is not None
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(line + b"\n")

    async def turn(self, text: str, *, commands: bool = False, interrupt_at: str | None = None) -> None:
        """Run a turn; allow what it asks for, or interrupt it at a line with this text."""
        uuid = str(uuid4())
        await self.send(self.protocol.begin(uuid, text, commands=commands))
        while True:
            line = await self.hear(allow=interrupt_at is None)
            if interrupt_at is not None and interrupt_at in json.dumps(line):
                interrupt_at = ""
                for item in self.protocol.interrupt()[1]:
                    if isinstance(item, Send):
                        await self.send(item.line)
                interrupt_at = None
            if line.get("command_uuid") == uuid and line["state"] in ("completed", "cancelled"):
                return

    async def hear(self, *, allow: bool = True) -> dict[str, Any]:
        with anyio.fail_after(HANG_SECONDS):
            raw = await self._lines.receive_until(b"\n", 2**26)
        line: dict[str, Any] = json.loads(raw)
        kind = f"system/{line['subtype']}" if line["type"] == "system" else line["type"]
        items = self.protocol.receive(raw)
        self.heard[kind] = self.heard.get(kind, False) or bool(items)
        if kind == "control_request":
            self.asked.add(line["request"]["subtype"])
        if kind == "control_response":
            response = line["response"]
            self.answers[response["request_id"]] = str(response.get("error", "success"))
        for item in items:
            if isinstance(item, Send):
                await self.send(item.line)
            elif isinstance(item, dict) and item["type"] == "permission_request" and allow:
                for answer in self.protocol.answer(item["request_id"], Decision("allow")):
                    if isinstance(answer, Send):
                        await self.send(answer.line)
        return line

    async def request(self, subtype: str, **members: Any) -> str:
        """The answer to a control request: ``success``, or the error."""
        request_id, line = self.protocol.control(subtype, **members)
        await self.send(line)
        while request_id not in self.answers:
            await self.hear()
        return self.answers[request_id]


@asynccontextmanager
async def touring(folder: Path) -> AsyncIterator[Tour]:
    cli, conversation = program(), str(uuid4())
    options = [
        *("--output-format=stream-json", "--verbose", "--input-format=stream-json", "--include-partial-messages"),
        *("--permission-prompt-tool=stdio", "--strict-mcp-config", "--setting-sources=", "--permission-mode=default"),
        *(f"--session-id={conversation}", f"--fallback-model={FALLBACK}", "--allowedTools=Agent,Task"),
        '--mcp-config={"mcpServers": {"dead": {"command": "/nonexistent/program"}}}',
    ]
    (folder / "work").mkdir()
    async with serve_model() as model:
        environment = {
            "PATH": os.environ["PATH"],
            **{name: str(folder) for name in ("HOME", "CLAUDE_CONFIG_DIR", "TMPDIR", "XDG_RUNTIME_DIR")},
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "CLAUDE_CODE_FORWARD_SUBAGENT_TEXT": "1",
            "ANTHROPIC_API_KEY": "no-real-key",
            "ANTHROPIC_BASE_URL": model.url,
        }
        process = await anyio.open_process(
            [cli, *options], env=environment, cwd=folder / "work", stderr=subprocess.DEVNULL
        )
        try:
            yield Tour(process, Protocol(conversation))
        finally:
            process.kill()
            await process.aclose()


@pytest.mark.anyio
async def test_each_kind_of_line_has_the_fate_that_the_table_says(tmp_path: Path) -> None:
    async with touring(tmp_path) as tour:
        await tour.turn(script({"think": "I think", "say": "hi", "tool": tool("Write", file_path="a", content="x")}))
        await tour.turn(script({"say": "x", "error": 529, "times": 1}))
        await tour.turn(script({"say": "x", "error": 404, "error_text": "model: nonsense", "times": 1}))
        await tour.turn(script({"say": "slow words", "gap_ms": 1000}), interrupt_at="slow")
        write = tool("Write", file_path="b", content="x")
        await tour.turn(script({"tool": write}), interrupt_at="can_use_tool")
        await tour.request("set_permission_mode", mode="dontAsk")
        await tour.turn(script({"tool": write}, {"say": "no"}))
        await tour.request("set_permission_mode", mode="default")
        task = script({"say": "I look", "tool": tool("Bash", command="echo 1")}, {"say": "seen"})
        for background in (False, True):
            given = {"description": "x", "subagent_type": "general-purpose", "run_in_background": background}
            await tour.turn(script({"tool": tool("Agent", **given, prompt=task)}, {"say": "all"}))
        while (await tour.hear())["type"] != "result":  # of the turn that the end of the task begins
            pass
        await tour.request("rename_session", title="tour")
        await tour.request("side_question", question="hi")
        await tour.turn("/compact", commands=True)
        await tour.turn("/clear", commands=True)
        await tour.turn(script({"say": "one", **REFUSED}, {"say": "two", **REFUSED}, {"say": "three", **REFUSED}))
    fates = {"carried": cli_lines.CARRIED, "used": cli_lines.USED, "dropped": cli_lines.DROPPED}
    told = {kind: fate for fate, kinds in fates.items() for kind in kinds}
    assert {kind for kind in tour.heard if kind not in told} == set(), "lines that the table says are not seen"
    silent = {kind for kind, meant in tour.heard.items() if not meant}
    assert silent == {kind for kind in tour.heard if told[kind] != "carried"}
    assert told.keys() - tour.heard.keys() == cli_lines.RECORDED
    assert tour.asked == {"can_use_tool"}


@pytest.mark.anyio
async def test_the_cli_answers_what_portico_asks_of_it(tmp_path: Path) -> None:
    async with touring(tmp_path) as tour:
        await tour.turn(script({"say": "hi"}))
        given: dict[str, dict[str, Any]] = {
            "set_model": {"model": FALLBACK},
            "set_permission_mode": {"mode": "plan"},
            "stop_task": {"task_id": "none"},
            "rewind_files": {"user_message_id": str(uuid4()), "dry_run": True},
        }
        answers = {name: await tour.request(name, **given.get(name, {})) for name in cli_lines.MADE}
        assert answers == dict.fromkeys(cli_lines.MADE, "success")
        # These are the CLI's own to make.
        for name in (*cli_lines.ASKED, "request_user_dialog", "ui_copy", "oauth_token_refresh"):
            assert "Unsupported" in await tour.request(name)

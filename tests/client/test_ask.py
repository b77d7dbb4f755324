"""`portico ask` as it is typed: a real server, the real CLI, the scripted model."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid

import anyio
import pytest
from anyio.abc import Process

from portico.client.api import Client
from portico.client.connection import find_endpoint
from tests.support.proxy import proxy
from tests.support.server import PORTICO, RunningServer, environment
from tests.support.terminal import CTRL_C, on_terminal

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

ENDLESS = '[[{"say": "tick", "words": 5000, "gap_ms": 20}]]'
WRITE = '[[{"say": "May I?", "tool": {"name": "Write", "input": {"file_path": "f.txt", "content": "x"}}}]]'


async def ask(
    server: RunningServer, *arguments: str, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    with anyio.fail_after(30):
        return await anyio.run_process(
            [*PORTICO, "ask", *arguments],
            env=server.client_env | variables,
            cwd=server.home,
            input=stdin,
            check=False,
        )


async def session_of(server: RunningServer, session_id: str) -> dict[str, object]:
    async with server.http() as http:
        found: dict[str, object] = (await http.get(f"/sessions/{session_id}")).json()
        return found


async def test_prints_the_answer_and_nothing_else(server: RunningServer) -> None:
    done = await ask(server, '[[{"think": "hm", "say": "Caf\\u00e9 \\ud83d\\ude00\\n\\nsecond line"}]]')
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "Caf\u00e9 \U0001f600\n\nsecond line\n"


async def test_takes_its_text_from_standard_input(server: RunningServer) -> None:
    done = await ask(server, "-", stdin=b'[[{"say": "from a pipe"}]]')
    assert done.stdout == b"from a pipe\n"


@pytest.mark.parametrize("stdin", [b"", b" \n", b"\xff\xfe"])
async def test_text_that_is_none_is_refused(server: RunningServer, stdin: bytes) -> None:
    done = await ask(server, "-", stdin=stdin)
    assert done.returncode == 1
    assert done.stderr.startswith(b"portico: ")
    assert b"Traceback" not in done.stderr


async def test_a_session_of_its_own_is_closed_afterwards_unless_kept(server: RunningServer) -> None:
    async with server.http() as http:
        before = {session["session_id"] for session in (await http.get("/sessions")).json()["sessions"]}
        await ask(server, "hello", "--title", "closed")
        kept = await ask(server, "hello", "--title", "kept", "--keep")
        now = (await http.get("/sessions")).json()["sessions"]
    states = {session["title"]: session["state"] for session in now if session["session_id"] not in before}
    assert states["closed"] == "closed"
    assert states["kept"] == "idle"
    assert any(session["session_id"].encode() in kept.stderr for session in now)


async def test_a_named_session_goes_on(server: RunningServer) -> None:
    name = f"named-{uuid.uuid4().hex}"
    first = await ask(server, "hello", "--session", name, "--title", "T")
    second = await ask(server, "again", "--session", name, "--title", "other")
    assert (first.returncode, second.returncode) == (0, 0)
    assert b"--title is for new sessions; this one has 'T'" in second.stderr
    found = await session_of(server, name)
    assert (found["turns"], found["state"]) == (2, "idle")


async def test_raw_events(server: RunningServer) -> None:
    done = await ask(server, '[[{"say": "one two"}]]', "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["type"] == "query" and events[-1]["type"] == "complete"
    assert "".join(event["content"] for event in events if event["type"] == "delta") == "one two"


async def test_a_failed_turn_says_why(server: RunningServer) -> None:
    done = await ask(server, '[[{"error": 400}]]')
    assert done.returncode == 1
    assert b"error: " in done.stderr and b"400" in done.stderr
    assert b"the turn ended with error" in done.stderr


@pytest.mark.parametrize(("option", "allowed"), [((), False), (("--allow",), True)])
async def test_permission_where_there_is_nobody_to_ask(
    server: RunningServer, option: tuple[str, ...], allowed: bool
) -> None:
    name = f"leave-{uuid.uuid4().hex}"
    done = await ask(server, WRITE, "--session", name, *option)
    assert done.returncode == 0
    assert done.stdout.startswith(b"May I?\n")
    assert (b"--allow" in done.stderr) != allowed
    assert await anyio.Path(str((await session_of(server, name))["cwd"]), "f.txt").exists() == allowed


async def test_a_connection_that_is_cut_shows_nothing_twice(server: RunningServer) -> None:
    say = "".join(f"w{number} " for number in range(300))
    async with proxy(server.url, [3000, 7000, 20_000]) as network:
        done = await ask(server, f'[[{{"say": "{say}", "gap_ms": 2}}]]', PORTICO_URL=network.url)
        assert len(network.requests) > 1, "nothing was cut"
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == say + "\n"


async def test_without_a_server_it_says_so(server: RunningServer) -> None:
    env = environment(server.home, PORTICO_DATA_DIR=str(server.home / "nothing"))
    done = await anyio.run_process([*PORTICO, "ask", "hello"], env=env, cwd=server.home, check=False)
    assert done.returncode == 1
    assert b"portico serve" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_a_reader_that_leaves_is_no_drama(server: RunningServer) -> None:
    done = await anyio.run_process(
        ["sh", "-c", '"$@" | head -c 4', "sh", *PORTICO, "ask", ENDLESS], env=server.client_env, cwd=server.home
    )
    assert done.stdout == b"tick"
    assert done.stderr == b""


async def stderr_and_status(process: Process) -> tuple[bytes, int]:
    assert process.stderr is not None
    with anyio.fail_after(15):
        return b"".join([data async for data in process.stderr]), await process.wait()


@pytest.mark.parametrize("presses", [1, 2])
async def test_ctrl_c_interrupts_the_turn(server: RunningServer, presses: int) -> None:
    name = f"stopped-{uuid.uuid4().hex}"
    command = [*PORTICO, "ask", ENDLESS, "--session", name]
    async with await anyio.open_process(command, env=server.client_env, cwd=server.home) as process:
        assert process.stdout is not None
        assert await process.stdout.receive()
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
        stderr, status = await stderr_and_status(process)
    assert (stderr, status) == (b"", 130)
    async with Client(find_endpoint({}, server.data_dir)) as client:
        found = await session_of(server, name)
        query = next(event for event in await client.history(name, after=0, limit=10) if event["type"] == "query")
        events = [event async for event in client.follow(name, query["turn_id"], after=query["seq"])]
    assert (found["turns"], events[-1]["stop_reason"]) == (1, "interrupted")


@pytest.mark.parametrize(("answer", "exists"), [("n", False), ("y", True)])
async def test_asks_on_a_terminal(server: RunningServer, answer: str, exists: bool) -> None:
    name = f"asked-{uuid.uuid4().hex}"
    async with on_terminal([*PORTICO, "ask", WRITE, "--session", name], server.client_env, server.home) as terminal:
        await terminal.until("allow it? [y]es, [n]o, [a]lways in this session: ")
        await terminal.type("what?\n")
        await terminal.until("in this session: ")
        await terminal.type(f"{answer}\n")
        assert await terminal.exit_status() == 0
    assert "Write f.txt" in terminal.text
    assert await anyio.Path(str((await session_of(server, name))["cwd"]), "f.txt").exists() == exists


async def test_ctrl_c_at_the_question_interrupts(server: RunningServer) -> None:
    async with on_terminal([*PORTICO, "ask", WRITE], server.client_env, server.home) as terminal:
        await terminal.until("in this session: ")
        await terminal.type(CTRL_C)
        assert await terminal.exit_status() == 130
    assert "Traceback" not in terminal.text


async def test_lists_sessions(server: RunningServer) -> None:
    name = f"listed-{uuid.uuid4().hex}"
    await ask(server, "hello", "--session", name, "--title", "A\x1b]0;title")
    command = [*PORTICO, "sessions"]
    shown = await anyio.run_process(command, env=server.client_env, cwd=server.home)
    row = next(line for line in shown.stdout.decode().splitlines() if line.startswith(name))
    assert row.split()[1] == "idle"
    assert "\x1b" not in row
    lines = await anyio.run_process([*command, "--json"], env=server.client_env, cwd=server.home)
    assert name in [json.loads(line)["session_id"] for line in lines.stdout.splitlines()]

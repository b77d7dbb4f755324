"""`portico ask` as it is typed: a real server, the real CLI, the scripted model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import uuid
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from portico.cli.client.api import Client
from portico.cli.client.connection import find_endpoint
from tests.support.limits import HANG_SECONDS
from tests.support.proxy import proxy
from tests.support.server import PORTICO, RunningServer, environment, running_server
from tests.support.terminal import CTRL_C, on_terminal

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

ENDLESS = '{"deltas": null, "size": 4, "gap": 0.02}'
WRITE = '[[{"say": "May I?", "tool": {"name": "Write", "input": {"file_path": "f.txt", "content": "x"}}}]]'
QUESTION = "allow it? [y]es, [n]o, [a]lways: "


async def ask(
    server: RunningServer, *arguments: str, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    with anyio.fail_after(HANG_SECONDS):
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


async def opened(server: RunningServer, driver: str = "echo") -> str:
    """A session that is there already."""
    async with server.http() as http:
        answer = await http.post("/sessions", json={"driver": driver})
        return str(answer.raise_for_status().json()["session_id"])


async def test_prints_the_answer_and_nothing_else(server: RunningServer, real: str) -> None:
    query = '[[{"think": "hm", "say": "Caf\\u00e9 \\ud83d\\ude00\\n\\nsecond line"}]]'
    done = await ask(server, query, "--session", real)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "Caf\u00e9 \U0001f600\n\nsecond line\n"


async def test_takes_its_text_from_standard_input(server: RunningServer) -> None:
    done = await ask(server, "-", stdin=b"from a pipe")
    assert (done.stdout, done.stderr) == (b"from a pipe\n", b"")


@pytest.mark.parametrize(
    ("stdin", "why"),
    [
        (b"", "there is no text to ask"),
        (b" \n", "there is no text to ask"),
        (b"\xff\xfe", "standard input is not UTF-8 text"),
    ],
)
async def test_text_that_is_none_is_refused(server: RunningServer, stdin: bytes, why: str) -> None:
    done = await ask(server, "-", stdin=stdin)
    assert (done.returncode, done.stderr.decode()) == (1, f"portico: {why}\n")


async def test_a_session_id_that_can_be_none_is_wrong_usage(server: RunningServer) -> None:
    done = await ask(server, "hello", "--session", "a b")
    assert done.returncode == 2
    assert b"letters, digits, dots, underscores and hyphens" in done.stderr and b"[A-Z" not in done.stderr


async def test_a_session_of_its_own_is_closed_unless_kept_and_then_the_printed_line_goes_on_with_it(
    server: RunningServer,
) -> None:
    async with server.http() as http:
        before = {session["session_id"] for session in (await http.get("/sessions")).json()["sessions"]}
        await ask(server, "hello", "--title", "closed")
        kept = await ask(server, "hello", "--title", "kept", "--keep", "--server", server.url, "--token", server.token)
        now = (await http.get("/sessions")).json()["sessions"]
    states = {session["title"]: session["state"] for session in now if session["session_id"] not in before}
    assert states["closed"] == "closed"
    assert states["kept"] == "idle"
    assert any(session["session_id"].encode() in kept.stderr for session in now)
    found = re.search(r"is kept: (.*) goes on with it", kept.stderr.decode())
    assert found and server.url in found[1] and server.token not in kept.stderr.decode()
    env = server.client_env | {"PORTICO_DATA_DIR": str(server.home), "PORTICO_TOKEN": server.token}
    again = await anyio.run_process(["sh", "-c", found[1]], env=env, cwd=server.home, input=b"on it goes")
    assert again.stdout.splitlines()[-1] == b"on it goes"


async def test_a_named_session_goes_on(server: RunningServer) -> None:
    name = f"named-{uuid.uuid4().hex}"
    first = await ask(server, "hello", "--session", name, "--title", "T")
    second = await ask(server, "again", "--session", name, "--title", "other")
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stderr.decode() == f"Session {name} is new.\n"
    assert second.stderr.decode() == f"session {name} has title other from now on (was T)\n"
    found = await session_of(server, name)
    assert (found["turns"], found["state"], found["title"]) == (2, "idle", "other")


async def test_the_mode_of_an_existing_session_is_changed_and_its_folder_refused(server: RunningServer) -> None:
    name = await opened(server)
    done = await ask(server, "hello", "--session", name, "--permission-mode", "plan")
    assert (done.returncode, (await session_of(server, name))["permission_mode"]) == (0, "plan")
    assert b"permission mode plan from now on (was default)" in done.stderr
    done = await ask(server, "hello", "--session", name, "--permission-mode", "nonsense")
    assert done.returncode == 1 and b"permission_mode: " in done.stderr and b"acceptEdits" in done.stderr
    done = await ask(server, "hello", "--session", name, "--cwd", "/somewhere/else")
    assert done.returncode == 1 and b"--cwd is for new sessions" in done.stderr
    assert (await session_of(server, name))["turns"] == 1


async def test_leave_that_is_not_allowed_is_told_and_does_not_hold_the_turn_up(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_PERMISSION_MODES="plan") as server:
        done = await ask(server, '[[{"tool": {"name": "ExitPlanMode"}}, {"say": "planned"}]]', "--allow")
    assert (done.returncode, done.stdout) == (0, b"planned\n")
    assert "the answer did not count: the permission mode 'default' is not allowed here" in done.stderr.decode()


async def test_a_closed_session_is_refused_and_says_how_to_read_it(server: RunningServer) -> None:
    name = await opened(server)
    async with server.http() as http:
        await http.delete(f"/sessions/{name}")
    done = await ask(server, "hello", "--session", name)
    assert done.returncode == 1
    assert f"session {name} is closed" in done.stderr.decode() and f"sessions export {name}" in done.stderr.decode()


async def test_raw_events(server: RunningServer) -> None:
    done = await ask(server, "one two", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["type"] == "query" and events[-1]["type"] == "complete"
    assert "".join(event["content"] for event in events if event["type"] == "delta") == "one two"


async def test_a_failed_turn_says_why(server: RunningServer, real: str) -> None:
    done = await ask(server, '[[{"error": 400}]]', "--session", real)
    assert done.returncode == 1
    assert b"error: " in done.stderr and b"The script asks for this error." in done.stderr
    assert b"the turn ended with error" in done.stderr


async def test_permission_where_there_is_nobody_to_ask(server: RunningServer, real: str) -> None:
    file = anyio.Path(str((await session_of(server, real))["cwd"]), "f.txt")
    for options, allowed in (((), False), (("--allow",), True)):
        done = await ask(server, WRITE, "--session", real, *options)
        assert done.returncode == 0
        assert done.stdout.startswith(b"May I?\n")
        assert (b"--allow" in done.stderr) != allowed
        assert await file.exists() == allowed
    await file.unlink()


async def test_a_connection_that_is_cut_shows_nothing_twice(server: RunningServer, real: str) -> None:
    say = "".join(f"w{number} " for number in range(300))
    async with proxy(server.url, [3000, 7000, 20_000]) as network:
        done = await ask(server, f'[[{{"say": "{say}", "gap_ms": 2}}]]', "--session", real, PORTICO_URL=network.url)
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
    assert done.stdout == b"xxxx"
    assert done.stderr == b""


async def test_an_answer_that_cannot_be_written_is_said_in_a_line(server: RunningServer) -> None:
    command = ["sh", "-c", '"$@" >/dev/full', "sh", *PORTICO, "ask", "hello", "--title", "unwritten"]
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(command, env=server.client_env, cwd=server.home, check=False)
    assert (done.returncode, done.stderr) == (1, b"portico: can't write: No space left on device\n")
    async with server.http() as http:
        found = (await http.get("/sessions")).json()["sessions"]
    assert [session["state"] for session in found if session["title"] == "unwritten"] == ["closed"]


async def stderr_and_status(process: Process) -> tuple[bytes, int]:
    assert process.stderr is not None
    with anyio.fail_after(HANG_SECONDS):
        return b"".join([data async for data in process.stderr]), await process.wait()


async def test_ctrl_c_interrupts_the_turn(server: RunningServer) -> None:
    name, seen = await opened(server, "claude-code"), 0
    endless = '[[{"say": "tick", "words": 5000, "gap_ms": 20}]]'
    for presses in (1, 2):
        command = [*PORTICO, "ask", endless, "--session", name]
        async with await anyio.open_process(command, env=server.client_env, cwd=server.home) as process:
            assert process.stdout is not None
            assert await process.stdout.receive()
            for _ in range(presses):
                process.send_signal(signal.SIGINT)
            stderr, status = await stderr_and_status(process)
        assert (stderr, status) == (b"", 130)
        async with Client(find_endpoint({}, server.data_dir)) as client:
            found = await session_of(server, name)
            news = await client.history(name, after=seen, limit=10)
            query = next(event for event in news if event["type"] == "query")
            events = [event async for event in client.follow(name, query["turn_id"], after=query["seq"])]
        assert (found["turns"], events[-1]["stop_reason"]) == (presses, "interrupted")
        seen = events[-1]["seq"]


async def test_asks_on_a_terminal(server: RunningServer) -> None:
    name = await opened(server, "claude-code")
    for answer, exists in (("n", False), ("y", True)):
        async with on_terminal([*PORTICO, "ask", WRITE, "--session", name], server.client_env, server.home) as terminal:
            await terminal.until(QUESTION)
            await terminal.type("what?\n")
            await terminal.until(QUESTION)
            await terminal.type(f"{answer}\n")
            assert await terminal.exit_status() == 0
        assert "Write f.txt" in terminal.text
        assert await anyio.Path(str((await session_of(server, name))["cwd"]), "f.txt").exists() == exists


async def test_ctrl_c_at_the_question_interrupts(server: RunningServer, real: str) -> None:
    async with on_terminal([*PORTICO, "ask", WRITE, "--session", real], server.client_env, server.home) as terminal:
        await terminal.until(QUESTION)
        await terminal.type(CTRL_C)
        assert await terminal.exit_status() == 130
    assert "Traceback" not in terminal.text


async def test_the_question_shows_all_that_would_be_allowed_and_what_always_means(server: RunningServer) -> None:
    name = await opened(server, "claude-code")
    content = "\n".join(f"line {number}" for number in range(40))
    tools = [
        {"name": "Bash", "input": {"command": "echo one &&\n  echo two > two.txt", "description": "harmless"}},
        {"name": "Write", "input": {"file_path": "long.txt", "content": content}},
        {"name": "Write", "input": {"file_path": "last.txt", "content": "x"}},
    ]
    query = json.dumps([[{"tool": tool} for tool in tools]])
    async with on_terminal([*PORTICO, "ask", query, "--session", name], server.client_env, server.home) as terminal:
        shown = await terminal.until("allow it? ")
        assert "? Bash\n    echo one &&\n      echo two > two.txt\n" in shown
        assert '    {"description":"harmless"}\n' in shown
        await terminal.type("y\n")
        shown = await terminal.until("allow it? [y]es, [n]o, [v]iew all, [a]lways: ")
        assert "    line 29\n    ... 10 more lines\n  [a]lways: accept all edits in this session\n" in shown
        await terminal.type("v\n")
        shown = await terminal.until(QUESTION)
        assert "    line 39\n" in shown
        await terminal.type("a\n")  # so the third is not asked about
        assert await terminal.exit_status() == 0
    found = await session_of(server, name)
    assert await anyio.Path(str(found["cwd"]), "last.txt").exists()


async def test_what_was_typed_before_the_question_does_not_answer_it(server: RunningServer, real: str) -> None:
    query = WRITE.replace('"May I?"', '"w", "words": 40, "gap_ms": 30')
    async with on_terminal([*PORTICO, "ask", query, "--session", real], server.client_env, server.home) as terminal:
        await terminal.until("w w w")
        await terminal.type("y\ny")
        await terminal.until(QUESTION)
        await terminal.type("\n")
        await terminal.until(QUESTION)  # neither the line nor the half of one has said yes
        await terminal.type("n\n")
        assert await terminal.exit_status() == 0
    assert not await anyio.Path(str((await session_of(server, real))["cwd"]), "f.txt").exists()

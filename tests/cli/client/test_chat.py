"""`portico chat` on a real terminal, and on a pipe."""

from __future__ import annotations

import re
import shlex
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.proxy import proxy
from tests.support.server import PORTICO, RunningServer
from tests.support.talk import script, talk
from tests.support.terminal import CTRL_C, CTRL_D, ENTER, READ, READING, Terminal, on_terminal

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SLOW = '{"deltas": null, "size": 5, "gap": 0.02}'
TICKS = "x" * 25
WRITE = '[[{"say": "May I?", "tool": {"name": "Write", "input": {"file_path": "f.txt", "content": "x"}}}]]'
ASK = '{"ask": {"tool_name": "Write", "input": {"file_path": "f.txt", "content": "x"}}, "deltas": 0}'
ALT_ENTER, CTRL_Z = "\x1b\r", "\x1a"
QUESTION = "allow it? [y]es, [n]o, [a]lways: "


@asynccontextmanager
async def chat(server: RunningServer, *arguments: str, **variables: str) -> AsyncIterator[Terminal]:
    command = [*PORTICO, "chat", *arguments]
    async with on_terminal(command, server.client_env | variables, server.home) as terminal:
        yield terminal


async def say(terminal: Terminal, text: str) -> None:
    """Type a query at the prompt, and wait until it is taken: from then on Ctrl-C is a signal."""
    await terminal.until(READING)
    await terminal.type(text + ENTER)
    await terminal.until(READ)


async def get(server: RunningServer, session_id: str) -> httpx.Response:
    async with server.http() as http:
        return await http.get(f"/sessions/{session_id}")


async def test_a_conversation_and_how_to_resume_it(server: RunningServer) -> None:
    async with chat(server, "--title", "talk") as terminal:
        await say(terminal, "first answer")
        await terminal.until("first answer\n")
        await say(terminal, "second answer")
        await terminal.until("second answer\n")
        await say(terminal, "/quit")
        farewell = await terminal.until("goes on with it.")
        assert await terminal.exit_status() == 0
    found = re.search(r"portico chat (\S+)", farewell)
    assert found
    async with chat(server, found[1]) as terminal:
        history = await terminal.until("second answer\n")
        assert "talk" in history
        assert history.count("first answer") == 2  # the query and its answer
        await terminal.until(READING)
        await terminal.type(CTRL_D)
        assert await terminal.exit_status() == 0
    assert (await get(server, found[1])).json()["turns"] == 2


async def test_ctrl_c_interrupts_the_turn_and_twice_at_the_prompt_leaves(server: RunningServer) -> None:
    async with chat(server) as terminal:
        await say(terminal, SLOW)
        await terminal.until(TICKS)
        await terminal.type(CTRL_C)
        await terminal.until("(interrupted)")
        await say(terminal, "still here")
        await terminal.until("still here\n")
        await terminal.until(READING)
        await terminal.type(CTRL_C)
        await terminal.until("Ctrl-C again or /quit leaves.")
        await terminal.until(READING)
        await terminal.type(CTRL_C)
        assert await terminal.exit_status() == 130
    assert "Traceback" not in terminal.text


async def test_ctrl_c_twice_in_a_turn_leaves(server: RunningServer) -> None:
    async with chat(server) as terminal:
        await say(terminal, SLOW)
        await terminal.until(TICKS)
        server.process.send_signal(signal.SIGSTOP)  # it can't react to the first
        try:
            await terminal.type(CTRL_C)
            await terminal.until("Ctrl-C again leaves")
            await terminal.type(CTRL_C)
            assert await terminal.exit_status() == 130
        finally:
            server.process.send_signal(signal.SIGCONT)


async def test_asks_for_permission_and_shows_tools(server: RunningServer, real: str) -> None:
    async with chat(server, real) as terminal:
        await say(terminal, WRITE)
        await terminal.until("* Write f.txt")
        await terminal.until(QUESTION)
        await terminal.type("y\n")
        await terminal.until("Done.")
        await terminal.until(READING)
        await terminal.type(CTRL_D)
        assert await terminal.exit_status() == 0
    assert await anyio.Path((await get(server, real)).json()["cwd"], "f.txt").exists()


async def test_a_permission_that_somebody_else_answers_is_asked_no_longer(server: RunningServer) -> None:
    name = uuid.uuid4().hex
    async with server.http() as http:
        await http.post("/sessions", json={"session_id": name})
        async with chat(server, name) as terminal:
            await say(terminal, ASK)
            await terminal.until("allow it? [y]es, [n]o: ")
            request = (await get(server, name)).json()["pending_permissions"][0]["request_id"]
            await http.post(f"/sessions/{name}/permissions/{request}", json={"behavior": "deny"})
            await terminal.until("no answer is needed any more")
            await say(terminal, "/quit")
            assert await terminal.exit_status() == 0


async def test_attaches_to_the_turn_that_runs(server: RunningServer) -> None:
    name = uuid.uuid4().hex
    async with server.http() as http:
        await http.post("/sessions", json={"session_id": name})
        await http.post(f"/sessions/{name}/turns", json={"query": SLOW})
        async with chat(server, name) as terminal:
            await terminal.until(TICKS)
            await terminal.type(CTRL_C)
            await terminal.until("(interrupted)")
            await say(terminal, "/quit")
            assert await terminal.exit_status() == 0
    assert (await get(server, name)).json()["turns"] == 1


async def test_commands(server: RunningServer) -> None:
    async with chat(server, "--title", "only-listed") as terminal:
        await say(terminal, "/help")
        await terminal.until("/sessions  lists the sessions")
        await say(terminal, "/sessions")
        await terminal.until("only-listed")
        await say(terminal, "/nonsense")
        await terminal.until("There is no /nonsense here")
        await say(terminal, "/etc/hosts is a file")
        await terminal.until("/etc/hosts is a file\n")
        await say(terminal, "/quit")
        assert await terminal.exit_status() == 0


async def test_a_session_in_which_nothing_was_said_is_not_left_open(server: RunningServer) -> None:
    async with chat(server) as terminal:
        session_id = (await terminal.until(". /help")).split()[1].rstrip(".")
        await terminal.until(READING)
        await terminal.type(CTRL_D)
        assert await terminal.exit_status() == 0
    assert (await get(server, session_id)).json()["state"] == "closed"


async def test_an_unknown_session_is_an_error(server: RunningServer) -> None:
    async with chat(server, "no-such-session") as terminal:
        await terminal.until("portico: ")
        assert await terminal.exit_status() == 1


async def test_when_the_server_goes_away_it_says_so_and_ctrl_c_gives_up(server: RunningServer) -> None:
    async with proxy(server.url, []) as network, chat(server, PORTICO_URL=network.url) as terminal:
        await terminal.until(READING)
        network.go_down()
        await terminal.type("hello" + ENTER)
        await terminal.until("Ctrl-C gives up")
        await terminal.type(CTRL_C)
        await terminal.until("given up")
        network.come_back()
        await say(terminal, "back again")
        await terminal.until("back again\n")
        await say(terminal, "/quit")
        assert await terminal.exit_status() == 0
    assert "Traceback" not in terminal.text


async def test_a_closed_session_is_told_at_once(server: RunningServer) -> None:
    name = uuid.uuid4().hex
    async with server.http() as http:
        await http.post("/sessions", json={"session_id": name})
        await http.delete(f"/sessions/{name}")
    async with chat(server, name) as terminal:
        await terminal.until(f"portico: session {name} is closed")
        assert await terminal.exit_status() == 1
    assert READING not in terminal.text


async def test_what_is_pasted_and_what_is_continued_is_one_message(server: RunningServer) -> None:
    name = uuid.uuid4().hex
    async with server.http() as http:
        await http.post("/sessions", json={"session_id": name})
    async with chat(server, name) as terminal:
        await say(terminal, "\x1b[200~pasted\r\ntwo\x1b[201~")
        await terminal.until("pasted")
        await say(terminal, f"typed\\{ENTER}two{ALT_ENTER}three")
        await terminal.until("typed")
        await say(terminal, "/quit")
        assert await terminal.exit_status() == 0
    async with talk(server) as client:
        queries = [event["content"] for event in await client.history(name) if event["type"] == "query"]
    assert queries == ["pasted\ntwo", "typed\ntwo\nthree"]


async def test_what_is_typed_while_an_answer_comes_is_kept_and_not_shown_in_it(server: RunningServer) -> None:
    async with chat(server) as terminal:
        await say(terminal, SLOW.replace("null", "60"))
        await terminal.until(TICKS)
        await terminal.type("/help")
        shown = await terminal.until(READING)
        assert "/" not in shown and shown.count("xxxxx") >= 50
        await terminal.until("/help")
        await terminal.type(ENTER)
        await terminal.until("lists the sessions")
        await say(terminal, "/quit")
        assert await terminal.exit_status() == 0


async def test_what_was_typed_during_an_answer_does_not_allow_anything(server: RunningServer, real: str) -> None:
    async with chat(server, real) as terminal:
        await say(terminal, WRITE.replace("f.txt", "g.txt").replace('"May I?"', '"w", "words": 40, "gap_ms": 30'))
        await terminal.until("w w w")
        await terminal.type("y\n")
        await terminal.until(QUESTION)
        await terminal.type("no\n")
        shown = await terminal.until("left it alone")
        assert "no\n" in shown  # an answer is shown as it is typed
        await say(terminal, "/quit")
        assert await terminal.exit_status() == 0
    assert not await anyio.Path((await get(server, real)).json()["cwd"], "g.txt").exists()


async def test_a_message_that_waits_says_so_and_is_withdrawn_by_ctrl_c(server: RunningServer) -> None:
    name = uuid.uuid4().hex
    async with talk(server) as client:
        await client.open(session_id=name)
        async with chat(server, name) as terminal:
            await terminal.until(READING)
            running = await client.start(name, SLOW)
            await terminal.type("hello" + ENTER)
            await terminal.until("waiting for the turn before this one")
            await terminal.type(CTRL_C)
            await terminal.until("(withdrawn)")
            assert (await client.session(name))["state"] == "running"
            await say(terminal, "/quit")
            assert await terminal.exit_status() == 0
        ends = [event for event in await client.history(name) if event["type"] == "complete"]
        assert [event["stop_reason"] for event in ends] == ["withdrawn"]
        assert ends[0]["turn_id"] != running["turn_id"]


async def test_a_turn_that_the_agent_begins_comes_to_the_prompt_and_what_was_typed_there_stays(
    server: RunningServer,
) -> None:
    steps = (
        {"tool": {"name": "Bash", "input": {"command": "until test -e go; do sleep 0.05; done"}}},
        {"tool": {"name": "Write", "input": {"file_path": "late.txt", "content": "x"}}},
        {"say": "It is written."},
    )
    work = {"description": "x", "prompt": script(*steps), "run_in_background": True}
    async with talk(server) as client:
        name = uuid.uuid4().hex
        session = await client.open(session_id=name, driver="claude-code", allowed_tools=["Agent", "Bash"])
        async with chat(server, name) as terminal:
            await say(terminal, script({"tool": {"name": "Agent", "input": work}}, {"say": "It is on its way."}))
            await terminal.until("It is on its way.\n")
            await terminal.until(READING)
            await terminal.type("half")
            await terminal.until("half")
            await anyio.Path(session["cwd"], "go").touch()
            await terminal.until("allow it? [y]es, [n]o")
            await terminal.type("y\n")
            await terminal.until("- the agent begins a turn: It is written.")
            await say(terminal, " typed")
            await terminal.until('You said: "half typed"')
            await say(terminal, "/quit")
            assert await terminal.exit_status() == 0
    assert await anyio.Path(session["cwd"], "late.txt").exists()


async def test_ctrl_z_suspends(server: RunningServer) -> None:
    shell = ["bash", "--norc", "--noediting", "-i"]
    async with on_terminal(shell, server.client_env | {"PS1": "$ "}, server.home) as terminal:
        await terminal.type(shlex.join([*PORTICO, "chat"]) + "\n")
        await terminal.until(READING)
        await terminal.type(CTRL_Z)
        await terminal.until("Stopped")
        await terminal.type("fg\n")
        await terminal.until(READING)
        await terminal.type(CTRL_D)
        await terminal.until("$ ")
        await terminal.type("exit\n")
        assert await terminal.exit_status() == 0


async def test_lines_of_a_pipe_are_queries(server: RunningServer) -> None:
    lines = "\n".join(["one", ASK, "three"]).encode()
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process([*PORTICO, "chat"], env=server.client_env, cwd=server.home, input=lines)
    assert done.stdout.decode().splitlines()[0] == "one"
    assert done.stdout.decode().splitlines()[-1] == "three"
    assert b"denied: Write" in done.stderr
    assert b"> " not in done.stdout


async def test_what_comes_from_a_pipe_and_is_no_text_is_said_in_a_line(server: RunningServer) -> None:
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(
            [*PORTICO, "chat"], env=server.client_env, cwd=server.home, input=b"\xff\n", check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "portico: standard input is not UTF-8 text"

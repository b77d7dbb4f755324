"""A real Bash tool looks for what is not its session's: everywhere that an injected prompt would have it look."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from portico.plugins.claude_code.containment import detect
from tests.support.sandbox import working_sandbox
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

RUN = secrets.token_hex(8)  # another run of these tests on this machine has other secrets
MARK = f"ZZMARKER-{RUN}-"
FIND = f"ZZMARK[E]R-{RUN}-[a-z]+"  # which does not find itself, on command lines and in transcripts

LOOK = """
{
  env
  cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline
  cat %(data)s/token
  grep -rashE -D skip '%(find)s' "$HOME" "$TMPDIR" /run /home %(data)s %(home)s
  for process in /proc/[0-9]*; do
    grep -rashE -D skip '%(find)s' $process/root/%(data)s $process/root/%(home)s
  done
} 2>/dev/null | tr '\\0' '\\n' | grep -aoE '%(find)s|%(token)s' | sort -u
echo looked
"""

VARIABLES = {
    "OPERATORS_OWN": f"{MARK}operators",
    "PORTICO_ALLOWED_TOOLS": "Bash",
    "PORTICO_POOL_SIZE": "0",
    "ANTHROPIC_API_KEY": f"{MARK}key",
}


async def tool(client: Talk, session_id: str, command: str) -> str:
    """Return the output of a Bash tool."""
    turn = await client.turn(
        session_id, script({"tool": {"name": "Bash", "input": {"command": command}}}, {"say": "x"})
    )
    return str(only(turn, "tool_result")["content"])


@asynccontextmanager
async def two_sessions(folder: Path, **variables: str) -> AsyncIterator[tuple[RunningServer, Talk]]:
    """A server with secrets, and two sessions of which one, ``victim``, has some too; both have agents that live."""
    async with running_server(folder, **VARIABLES, **variables) as server, talk(server) as client:
        (server.home / "notes").write_text(f"{MARK}home\n")
        victim = await client.open(session_id="victim")
        (Path(victim["cwd"]) / "notes").write_text(f"{MARK}workspace\n")
        await client.turn("victim", f"{MARK}history")
        await client.open(session_id="thief")
        yield server, client


def look(server: RunningServer) -> str:
    token = server.token[:-1] + f"[{server.token[-1]}]"
    return LOOK % {"data": server.data_dir, "home": server.home, "find": FIND, "token": token}


async def test_in_the_sandbox_a_tool_finds_no_secret_and_nothing_of_another_session(tmp_path: Path) -> None:
    await working_sandbox()
    async with two_sessions(tmp_path, PORTICO_SANDBOX="required") as (server, client):
        agents, victim = server.data_dir / "agents", (await client.session("victim"))["cwd"]
        found = await tool(client, "thief", f"umount -l /proc 2>/dev/null; {look(server)}")
        assert found.split() == ["looked"]
        listed = await tool(client, "thief", f"ls -d {server.data_dir}/* {agents}/*; ls {agents.parent.parent} /home")
        (mine,) = [line for line in listed.splitlines() if line.startswith(f"{agents}/")]
        assert {line for line in listed.splitlines() if line.startswith(f"{server.data_dir}/") and line != mine} <= {
            str(agents),
            str(server.data_dir / "workspaces"),
        }
        writes = [f"echo x > {path}" for path in ("/etc/x", "/usr/x", "/x", "/proc/sys/kernel/domainname")]
        attempts = [*writes, "grep . /etc/shadow", f"ls {server.data_dir}/portico.db", f"cat {victim}/notes"]
        command = "; ".join(f"({attempt}) >/dev/null 2>&1 && echo done: '{attempt}'" for attempt in attempts)
        assert "done:" not in await tool(client, "thief", f"{command}; true")
        assert f"uid={os.getuid()}" in await tool(client, "thief", "id")


async def test_outside_of_the_sandbox_a_tool_finds_what_the_log_says_and_no_more(tmp_path: Path) -> None:
    async with two_sessions(tmp_path, PORTICO_SANDBOX="none") as (server, client):
        found = (await tool(client, "thief", look(server))).split()
        readable = {f"{MARK}workspace", f"{MARK}history", f"{MARK}home", server.token, "looked"}
        perhaps = set()
        if os.geteuid() == 0 and (await detect(os.environ["PATH"])).name in ("cgroup", "best-effort"):
            # Without a PID namespace root reads the server's environment, if it has CAP_SYS_PTRACE.
            perhaps.add(f"{MARK}operators")
        assert readable <= set(found) <= readable | perhaps
        (warning,) = [line for line in log(server).splitlines() if "not in a sandbox (sandbox=none)" in line]
        assert "other sessions' workspaces and folders, the history, tokens in files, and this user's home" in warning


@pytest.mark.parametrize(("sandbox", "places"), [("required", "/tmp /run /root /home"), ("none", "")])
async def test_sessions_do_not_see_each_others_sockets(tmp_path: Path, sandbox: str, places: str) -> None:
    """In the sandbox there are no others anywhere. Outside of it a tool sees those of every program that has one in a
    folder for all; there, the CLI's own way to find other sessions is closed off, and that is all."""
    if sandbox == "required":
        await working_sandbox()
    look = f"""
        for _ in $(seq 50); do ls "$XDG_RUNTIME_DIR"/cc-socks/*.sock >/dev/null 2>&1 && break; sleep 0.1; done
        find "$XDG_RUNTIME_DIR" {places} -type s 2>/dev/null; echo "= $XDG_RUNTIME_DIR"
    """
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")  # in the sandbox nothing is found by links that lead there
    data_dir = str(tmp_path / "link" / "data")
    async with two_sessions(tmp_path, PORTICO_SANDBOX=sandbox, PORTICO_DATA_DIR=data_dir) as (_, client):
        seen = {}
        for session_id in ("thief", "victim"):
            *sockets, own = (await tool(client, session_id, look)).splitlines()
            seen[session_id] = own.removeprefix("= ")
            assert [path for path in sockets if not path.startswith(seen[session_id])] == []
            assert sockets or os.geteuid() != 0  # as a plain user, CLI 2.1.330 made none
        assert seen["thief"] != seen["victim"]
        assert (Path(seen["victim"]).stat().st_mode & 0o777) == 0o700


def log(server: RunningServer) -> str:
    return (server.home.parent / "server.log").read_text()

"""The key gateway, with the real server, the real CLI, and tools that look for what they should not find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from tests.support.agents import gone_soon
from tests.support.limits import HANG_SECONDS
from tests.support.programs import needs
from tests.support.sdk import SDK_DRIVER
from tests.support.server import RunningServer, running_server
from tests.support.talk import Stopwatch, Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

KEY = "sk-ant-the-servers-own-key"
# All that a tool can read: its environment, that of every process, its home, the data folder.
LOOK = r"""
{ env; for p in /proc/[0-9]*; do tr '\0' '\n' < $p/environ; cat $p/cmdline; done
  grep -ra . "$HOME" "$CLAUDE_CONFIG_DIR" DATA; } > found.txt 2> /dev/null; true
"""


def bash(command: str) -> dict[str, Any]:
    return {"tool": {"name": "Bash", "input": {"command": command}}}


async def run_bash(client: Talk, session: dict[str, Any], command: str) -> list[dict[str, Any]]:
    turn = await client.turn(session["session_id"], script(bash(command), {"say": "done"}))
    assert turn[-1]["stop_reason"] == "end_turn", turn
    return turn


async def open_with_bash(client: Talk, session_id: str = "s") -> dict[str, Any]:
    return await client.open(session_id=session_id, allowed_tools=["Bash"])


def open_sockets(*paths: str) -> set[str]:
    """Those of these paths at which there is a socket that a program has open."""
    return {line.split(" ")[-1] for line in Path("/proc/net/unix").read_text().splitlines()} & set(paths)


def looking(server: RunningServer) -> str:
    return LOOK.replace("DATA", str(server.data_dir))


@pytest.mark.parametrize("sandbox", [pytest.param("auto", marks=pytest.mark.long), "none"])
async def test_no_tool_finds_the_credential_and_the_model_is_told_it(tmp_path: Path, sandbox: str) -> None:
    variables = {"ANTHROPIC_API_KEY": KEY, "PORTICO_SANDBOX": sandbox}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        session = await open_with_bash(client)
        await run_bash(client, session, looking(server))
        found = (Path(session["cwd"]) / "found.txt").read_text(errors="replace")
        assert "ANTHROPIC_UNIX_SOCKET=" in found and "HOME=" in found  # it has looked
        assert KEY not in found
        assert all(call.headers["x-api-key"] == KEY for call in server.model.requests)
        assert KEY not in (tmp_path / "server.log").read_text()
        for process in psutil.Process(server.process.pid).children(recursive=True):
            assert KEY not in str(process.environ())


@pytest.mark.long
async def test_with_the_official_sdk_and_a_token_it_is_the_same(tmp_path: Path) -> None:
    variables = {**SDK_DRIVER, "ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": KEY}
    async with (
        running_server(tmp_path, **variables, PORTICO_BUDGET_USD_PER_DAY="0.05") as server,
        talk(server) as client,
    ):
        session = await open_with_bash(client)
        steps = (bash(looking(server)), {"say": "done", "usage": {"input_tokens": 100_000}})
        assert text(await client.turn("s", script(*steps))) == "done"
        assert KEY not in (Path(session["cwd"]) / "found.txt").read_text(errors="replace")
        assert server.model.requests[-1].headers["authorization"] == f"Bearer {KEY}"
        assert only(await client.turn("s", "more"), "error")["code"] == "budget_exceeded"


@needs("curl")
async def test_a_socket_takes_requests_for_messages_from_its_own_session_alone(tmp_path: Path) -> None:
    ask = 'curl -s -o /dev/null -w "%{http_code} " -d "{}" --unix-socket'
    own = f"""
      for path in messages files organizations/me; do {ask} "$ANTHROPIC_UNIX_SOCKET" http://x/v1/$path; done > codes.txt
      stat -c %a "$ANTHROPIC_UNIX_SOCKET" "$(dirname "$ANTHROPIC_UNIX_SOCKET")" >> codes.txt
      echo "$ANTHROPIC_UNIX_SOCKET" >> codes.txt
    """
    options = ("--pool-size", "0", "--sandbox", "none")  # in one the others' sockets are not even there
    async with running_server(tmp_path, *options) as server, talk(server) as client:
        a, b = [await open_with_bash(client, name) for name in ("a", "b")]
        await run_bash(client, a, own)
        *codes, first = (Path(a["cwd"]) / "codes.txt").read_text().split()
        assert codes == ["400", "404", "404", "600", "700"]  # the first is the model's answer to nonsense
        assert {call.path for call in server.model.requests} == {"/v1/messages"}
        before = len(server.model.requests)
        await run_bash(client, b, f"{ask} {first} http://x/v1/messages; echo $? $ANTHROPIC_UNIX_SOCKET > path.txt")
        status, second = (Path(b["cwd"]) / "path.txt").read_text().split()
        # curl: closed without an answer, or before it had looked whether it was connected (7)
        assert status in ("7", "52", "55", "56")
        assert f"has been refused at {first}" in (tmp_path / "server.log").read_text()
        assert len(server.model.requests) == before + 2  # those of the turn itself
        assert second != first and open_sockets(first, second) == {first, second}
        await client.http.delete("/sessions/a")
        assert open_sockets(first, second) == {second} and not Path(first).exists()
    assert not Path(second).exists()


async def test_words_come_while_the_model_is_still_speaking_and_a_dead_agent_asks_no_more(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.start("s", script({"say": "one two three", "stall": 1}))
        delta = await client.until("s", "delta")
        assert delta["content"].strip() == "one" and server.model._streams  # it stalls behind that
        agents = server.agents()
        server.kill_agents()
        assert gone_soon(agents)
        with anyio.fail_after(HANG_SECONDS):
            while server.model._streams:
                await anyio.sleep(0.02)
        assert (await client.until("s", "complete"))["stop_reason"] == "error"
        assert text(await client.turn("s", script({"say": "back"}))) == "back"


@pytest.mark.long
async def test_an_error_of_the_model_is_retried_and_told_as_without_the_gateway(tmp_path: Path) -> None:
    turns = []
    for number, gateway in enumerate(("on", "off")):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with running_server(folder, PORTICO_KEY_GATEWAY=gateway) as server, talk(server) as client:
            await client.open(session_id="s")
            found = []
            for step in (
                {"error": 529, "times": 2, "say": "here"},
                {"error": 400},
                {"cut": 1, "times": 1, "say": "a b"},
            ):
                turn = await client.turn("s", script(step))
                notices = [(e["name"], e["detail"].get("error_status")) for e in turn if e["type"] == "notice"]
                errors = [(e["code"], e["error"]) for e in turn if e["type"] == "error"]
                # Whether it has seen anything of a reply that was cut is a race in the CLI itself.
                said = [e["content"] for e in turn if e["type"] == "message" and e["content"]]
                found.append((turn[-1]["stop_reason"], notices, errors, said))
            turns.append((found, len(server.model.requests)))
    assert turns[0] == turns[1]


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"])
async def test_a_refused_credential_ends_the_turn_at_once_and_is_named(tmp_path: Path, name: str) -> None:
    variables = {"ANTHROPIC_API_KEY": "", name: "refused"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.turn("s", "hello")  # so that the next turn does not start a process
        watch = Stopwatch()
        turn = await client.turn("s", script({"error": 401}))
        assert watch.seconds < 5
        assert [e["code"] for e in turn if e["type"] == "error"] == ["authentication_failed"]
        ready = (await client.http.get(server.url + "/readyz")).json()
        assert ready["status"] == "ok" and "401" in ready["failed"]["model API"]
        # Once the API takes the credential again, nothing is named.
        assert text(await client.turn("s", script({"say": "here"}))) == "here"
        assert "failed" not in (await client.http.get(server.url + "/readyz")).json()


@pytest.mark.long
async def test_budget_usd_per_day_ends_the_next_turn_in_words_and_leaves_others_alone(tmp_path: Path) -> None:
    variables = {
        "PORTICO_BUDGET_USD_PER_DAY": "0.05",
        "PORTICO_AUTH_TOKENS": "alice:alice-secret-alice,bob:bob-secret-bob-bob",
    }
    dear = {"say": "dear", "usage": {"input_tokens": 20_000}}
    async with running_server(tmp_path, **variables) as server, talk(server, "alice-secret-alice") as alice:
        await alice.open(session_id="a")
        assert text(await alice.turn("a", script(dear))) == "dear"  # not cut, though it goes beyond
        before = len(server.model.requests)
        turn = await alice.turn("a", "more")
        error = only(turn, "error")
        assert error["code"] == "budget_exceeded" and "alice" in error["error"]
        assert turn[-1]["stop_reason"] == "error" and turn[-1]["duration_ms"] < 5000
        assert not [event for event in turn if event["type"] == "notice"]
        assert len(server.model.requests) == before  # neither asked nor retried
        async with talk(server, "bob-secret-bob-bob") as bob:
            await bob.open(session_id="b")
            assert text(await bob.turn("b", script({"say": "fine"}))) == "fine"
    again = tmp_path / "again"
    again.mkdir()
    async with running_server(again, **variables, PORTICO_DATA_DIR=str(server.data_dir)) as server:
        async with talk(server, "alice-secret-alice") as alice:
            assert only(await alice.turn("a", "still?"), "error")["code"] == "budget_exceeded"

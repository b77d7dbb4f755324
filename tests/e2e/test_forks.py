"""Sessions that begin with the history of another one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SLOW = {"words": 400, "say": "w ", "gap_ms": 50}


async def fork(client: Talk, of: str, **body: Any) -> dict[str, Any]:
    answer = await client.http.post(f"/sessions/{of}/fork", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"].endswith(f"/sessions/{found['session_id']}")
    return found


def asked(server: RunningServer) -> str:
    return str(server.model.requests[-1].body["messages"])


async def test_a_fork_knows_the_history_up_to_a_turn_and_has_it(server: RunningServer, client: Talk) -> None:
    first = await client.open(session_id="a", permission_mode="acceptEdits", title="names")
    (Path(first["cwd"]) / "note.txt").write_text("of a\n")
    for turn_id, said in (("one", "My name is Ada."), ("two", "My dog is Rex."), ("three", "My cat is Tom.")):
        await client.turn("a", said, turn_id=turn_id)
    made = await fork(client, "a", turn_id="two", session_id="b")
    assert (made["title"], made["permission_mode"], made["turns"], made["cost_usd"]) == ("names", "acceptEdits", 2, 0.0)
    assert made["cwd"] != first["cwd"] and (Path(made["cwd"]) / "note.txt").read_text() == "of a\n"
    of_a = [event for event in await client.history("a") if event.get("turn_id") in ("one", "two")]
    of_b = await client.history("b")
    assert [event["seq"] for event in of_b] == list(range(1, len(of_b) + 1))
    unplaced = [{**event, "session_id": "b", "seq": n} for n, event in enumerate(of_a, 1)]
    assert of_b[:-1] == unplaced
    assert (of_b[-1]["reason"], of_b[-1]["forked_from"]) == ("forked", "a")
    end = await client.turn("b", "Who are they?", turn_id="four")
    assert "Ada" in asked(server) and "Rex" in asked(server) and "Tom" not in asked(server)
    assert made["cwd"] in asked(server)
    assert end[-1]["cost_usd"] == pytest.approx((await client.session("b"))["cost_usd"])
    await client.turn("a", "And mine?")
    assert "Tom" in asked(server) and "Who are they?" not in asked(server)
    again = await client.http.post("/sessions/b/turns", json={"query": "again", "turn_id": "one"})
    assert again.json()["state"] == "complete", "the turns of the history are known"


@pytest.mark.long
async def test_a_fork_may_be_forked_at_a_turn_that_it_has_from_the_other(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="a")
    for turn_id, said in (("one", "My name is Ada."), ("two", "My dog is Rex.")):
        await client.turn("a", said, turn_id=turn_id)
    for of, name in (("a", "b"), ("b", "c")):
        await fork(client, of, session_id=name)
        await client.turn(name, f"I am {name}.", turn_id=f"of-{name}")
    for turn_id, knows in (("one", False), ("two", True), ("of-b", True)):
        made = await fork(client, "c", turn_id=turn_id)
        await client.turn(made["session_id"], "go on")
        assert "Ada" in asked(server) and ("Rex" in asked(server)) is knows
        assert ("I am b." in asked(server)) is (turn_id == "of-b") and "I am c." not in asked(server)


@pytest.mark.long
async def test_a_fork_may_share_the_folder_and_be_of_a_closed_session(server: RunningServer, client: Talk) -> None:
    first = await client.open(session_id="a")
    await client.turn("a", "My name is Ada.")
    assert (await client.http.delete("/sessions/a")).status_code == 204
    made = await fork(client, "a", workspace="share", title="again")
    assert (made["cwd"], made["title"]) == (first["cwd"], "again")
    await client.turn(made["session_id"], "What is my name?")
    assert "My name is Ada." in asked(server)
    assert (await client.http.delete(f"/sessions/{made['session_id']}?purge=true")).status_code == 204
    assert Path(first["cwd"]).exists(), "it is the other session's"


async def test_a_fork_may_be_made_while_a_turn_runs(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="a")
    await client.turn("a", "My name is Ada.", turn_id="one")
    await client.start("a", script(SLOW), turn_id="two")
    await client.until("a", "delta", turn_id="two")
    refused = await client.http.post("/sessions/a/fork", json={"turn_id": "two"})
    assert (refused.status_code, refused.json()["code"]) == (409, "turn_not_over")
    made = await fork(client, "a")
    assert made["turns"] == 1
    await client.turn(made["session_id"], "What is my name?")
    assert "My name is Ada." in asked(server) and "gap_ms" not in asked(server)
    assert (await client.session("a"))["state"] == "running"
    assert (await client.http.post("/sessions/a/interrupt")).status_code == 202
    await client.until("a", "complete", turn_id="two")


@pytest.mark.long
async def test_a_fork_at_a_turn_that_was_steered_or_that_follows_one_of_the_agents_own(
    server: RunningServer, client: Talk
) -> None:
    session = await client.open(session_id="a", permission_mode="acceptEdits", allowed_tools=["Bash"])
    sleep = {"tool": {"name": "Bash", "input": {"command": "sleep 2"}}}
    await client.start("a", script(sleep), turn_id="host")
    await client.until("a", "tool_use", turn_id="host")
    await client.start("a", "steered in", turn_id="guest", if_busy="steer")
    await client.until("a", "complete", turn_id="host")
    await client.turn("a", "last words", turn_id="last")
    made = await fork(client, "a", turn_id="guest")
    await client.turn(made["session_id"], "go on")
    assert "steered in" in asked(server) and "last words" not in asked(server)
    go = Path(session["cwd"], "go")
    waiting = f"while [ ! -e {go} ]; do sleep 0.1; done"
    background = {"tool": {"name": "Bash", "input": {"command": waiting, "run_in_background": True}}}
    await client.turn("a", script(background), turn_id="before")
    go.touch()
    own = await client.until("a", "query", principal=None)
    await client.until("a", "complete", turn_id=own["turn_id"])
    await client.turn("a", "after all", turn_id="after")
    for turn_id, knows in (("before", False), (own["turn_id"], True)):
        made = await fork(client, "a", turn_id=turn_id)
        await client.turn(made["session_id"], "go on")
        assert "last words" in asked(server) and "after all" not in asked(server)
        assert ("<status>completed" in asked(server)) is knows, "of the end of the task"


@pytest.mark.long
async def test_what_can_not_be_forked_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    tokens = "ada:ada-secret-0123456789,bob:bob-secret-0123456789"
    async with (
        running_server(tmp_path, PORTICO_AUTH_TOKENS=tokens, PORTICO_MAX_SESSIONS="2") as server,
        talk(server, "ada-secret-0123456789") as ada,
        talk(server, "bob-secret-0123456789") as bob,
    ):
        session = await ada.open(session_id="a")
        await ada.turn("a", "My name is Ada.", turn_id="one")

        async def refused(client: Talk, of: str, **body: Any) -> tuple[int, str]:
            answer = await client.http.post(f"/sessions/{of}/fork", json=body)
            return answer.status_code, answer.json()["code"]

        assert await refused(bob, "a") == (404, "session_not_found")
        assert await refused(ada, "a", turn_id="nobody") == (404, "turn_not_found")
        assert await refused(ada, "a", session_id="a") == (409, "session_exists")
        assert await refused(ada, "a", workspace="move") == (422, "invalid")
        with (Path(session["cwd"]) / "large").open("wb") as large:
            large.truncate(1024**3 + 1)
        folders = set(Path(session["cwd"]).parent.iterdir())
        assert await refused(ada, "a", session_id="b") == (413, "workspace_too_large")
        assert set(Path(session["cwd"]).parent.iterdir()) == folders
        assert (await ada.http.get("/sessions/b")).status_code == 404
        ticket = (await ada.http.post("/sessions/a/tickets", json={"scope": "query"})).json()["ticket"]
        by_ticket = await ada.http.post(f"/sessions/a/fork?ticket={ticket}", json={}, headers={"authorization": ""})
        assert by_ticket.status_code in (401, 403)
        made = await fork(ada, "a", workspace="share")
        assert await refused(ada, "a", workspace="share") == (429, "too_many_sessions")
        assert only(await ada.turn(made["session_id"], "hello"), "complete")["stop_reason"] == "end_turn"


@pytest.mark.long
async def test_a_folder_that_is_gone_or_no_longer_allowed_is_not_copied(tmp_path: Path) -> None:
    work = tmp_path / "root" / "work"
    work.mkdir(parents=True)
    tokens = work / "tokens"
    tokens.write_text("ada:ada-secret-0123456789\n")
    tokens.chmod(0o600)
    settings = {"PORTICO_WORKSPACE_ROOTS": str(tmp_path / "root"), "PORTICO_DATA_DIR": str(tmp_path / "data")}

    async def refused(client: Talk, of: str, workspace: str) -> tuple[int, str]:
        answer = await client.http.post(f"/sessions/{of}/fork", json={"workspace": workspace})
        return answer.status_code, answer.json()["code"]

    (tmp_path / "before").mkdir()
    token = "ada:ada-secret-0123456789"
    async with (
        running_server(tmp_path / "before", PORTICO_AUTH_TOKENS=token, **settings) as server,
        talk(server, token.partition(":")[2]) as ada,
    ):
        await ada.open(session_id="named", cwd=str(work))
        shutil.rmtree((await ada.open(session_id="own"))["cwd"])
        for workspace in ("copy", "share"):
            assert await refused(ada, "own", workspace) == (503, "workspace_moved")
    async with (
        running_server(tmp_path, PORTICO_AUTH_TOKENS=f"@{tokens}", **settings) as server,
        talk(server, token.partition(":")[2]) as ada,
    ):
        for workspace in ("copy", "share"):
            assert await refused(ada, "named", workspace) == (503, "workspace_not_allowed")

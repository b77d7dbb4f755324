"""The messages of a WebSocket, in both directions."""

import json
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from portico.core.engine import Engine
from portico.core.errors import StoreFailed
from portico.core.principal import Principal
from portico.core.requests import NewSession
from portico.transports import websocket
from tests.support.accesslog import access_lines
from tests.support.limits import HANG_SECONDS
from tests.support.proxy import proxy
from tests.support.serving import Served, serving
from tests.support.websocket import Message, talking

pytestmark = pytest.mark.anyio

SLOW = json.dumps({"deltas": 100, "gap": 0.01})
ENDLESS = json.dumps({"deltas": None, "gap": 0.01})


async def history(served: Served, session_id: str = "s") -> list[Message]:
    answer = await served.client.get(f"/claude/sessions/{session_id}/events?live=false&limit=5000")
    found: list[Message] = answer.json()["events"]
    return found


# The plain form.


async def test_a_text_is_a_query_and_its_turn_is_the_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url) as client:
            await client.send("hello dear world")
            turn = await client.until("complete")
            assert [event["type"] for event in turn] == ["query", "delta", "delta", "delta", "message", "complete"]
            assert "".join(event["content"] for event in turn[1:4]) == "hello dear world"
            assert len({event["turn_id"] for event in turn}) == 1
            await client.send("again")
            second = await client.until("complete")
            assert second[0]["content"] == "again"
            assert [event for event in await history(served) if "turn_id" in event] == turn + second


async def test_two_queries_in_a_row_are_two_turns_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url) as client:
            await client.send(SLOW)
            await client.send("second")
            both = await client.until("complete") + await client.until("complete")
        assert both == [event for event in await history(served) if "turn_id" in event]
        assert len({event["turn_id"] for event in both}) == 2


async def test_other_peoples_turns_are_not_the_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url) as client, talking(served.url) as other:
            await other.send(SLOW)
            await other.until("delta")
            await client.send("mine")
            mine = await client.until("complete")
            assert {event["turn_id"] for event in mine} == {mine[0]["turn_id"]}
            assert [event["type"] for event in mine] == ["query", "delta", "message", "complete"]
            await other.until("complete")
            await other.send("theirs")
            assert {event["type"] for event in await other.until("complete")} == {
                "query",
                "delta",
                "message",
                "complete",
            }


async def test_with_after_a_plain_client_is_told_everything(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hi")
        async with talking(served.url, "/claude/ws/s?after=0") as client:
            seen = await client.until("complete")
            await client.send("mine")
            seen += await client.until("complete")
            seen += await client.until("session", state="idle")
            assert seen == await history(served)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
async def test_a_query_that_cannot_be_one_is_an_error_and_no_more(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url) as client:
            await client.send(text)
            error = await client.receive()
            assert (error["type"], error["code"], error["session_id"]) == ("error", "invalid", "s")
            await client.send("hi")
            await client.until("complete")


async def test_a_query_that_is_refused_is_an_error_and_no_more(tmp_path: Path) -> None:
    async with serving(tmp_path, max_queued_turns=0) as served:
        await served.session()
        async with talking(served.url) as client:
            await client.send(ENDLESS)
            await client.until("delta")
            await client.send("one more")
            error = (await client.until("error"))[-1]
            assert (error["code"], error["status"]) == ("queue_full", 429)
            await client.until("delta")


async def test_who_asks_again_after_each_cut_has_asked_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("before", turn_id="before")
        path, cuts = "/claude/ws/s?turn_id=t", [1, 20, 60]
        cut: list[list[Message]] = []
        for count in cuts:
            async with talking(served.url, path) as client:
                await client.send(SLOW)
                cut.append([await client.receive() for _ in range(count)])
        async with talking(served.url, path) as client:
            await client.send(SLOW)
            turn = await client.until("complete")
            assert turn == [event for event in await history(served) if event.get("turn_id") == "t"]
            assert [turn[:count] for count in cuts] == cut
            await client.send("another")  # the id was for the first one
            second = await client.until("complete")
            assert second[0]["content"] == "another" and second[0]["turn_id"] not in ("t", "before")
        async with talking(served.url, path) as client:  # it is over
            await client.send(SLOW)
            assert await client.until("complete") == turn
            await client.send("one more")
            assert (await client.until("complete"))[0]["content"] == "one more"
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 4


async def test_the_loop_of_websockets_asks_once_however_often_it_connects(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer alice-secret"}
    async with serving(tmp_path) as served, proxy(served.url, [1000, 3000, 5000]) as network:
        await served.session()
        url = f"ws{network.url.removeprefix('http')}/claude/ws/s?turn_id=t"
        connections: list[list[Message]] = []
        async for connection in connect(url, additional_headers=headers, proxy=None):
            connections.append([])
            with suppress(ConnectionClosedError):
                await connection.send(SLOW)
                async for text in connection:
                    connections[-1].append(json.loads(text))
                    if connections[-1][-1]["type"] == "complete":
                        break
                break
        turn = [event for event in await history(served) if event.get("turn_id") == "t"]
        assert connections[-1] == turn
        assert [each == turn[: len(each)] for each in connections] == [True] * 4
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 1


async def test_with_after_who_asks_again_gets_what_it_has_missed_or_the_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        path = "/claude/ws/s?turn_id=t&after="
        async with talking(served.url, f"{path}0") as client:
            await client.send(SLOW)
            seen = await client.until("delta")
        async with talking(served.url, f"{path}{seen[-1]['seq']}") as client:
            await client.send(SLOW)
            seen += await client.until("session", state="idle")
        assert seen == await history(served)
        end = next(event for event in seen if event["type"] == "complete")
        for after in (end["seq"], seen[-1]["seq"]):
            async with talking(served.url, f"{path}{after}") as client:
                await client.send(SLOW)
                assert (await client.until("complete"))[-1] == end
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 1


async def test_who_asks_again_in_a_session_that_was_closed_gets_the_turn(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hello")
        await served.client.delete("/claude/sessions/s")
        turn = [event for event in await history(served) if event.get("turn_id") == "t"]
        for turn_id, code in (("t", 1000), ("new", 1000)):
            async with talking(served.url, f"/claude/ws/s?turn_id={turn_id}") as client:
                await client.send("hello")
                if turn_id == "t":
                    assert await client.until("complete") == turn
                else:
                    assert (await client.receive())["code"] == "session_closed"
                assert (await client.closed())[0] == code


async def test_an_id_is_for_the_first_query_that_is_not_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, max_queued_turns=0) as served:
        await served.session()
        async with talking(served.url) as other, talking(served.url, "/claude/ws/s?turn_id=t") as client:
            await other.send(ENDLESS)
            await other.until("delta")
            await client.send("mine")
            assert (await client.receive())["code"] == "queue_full"
            await served.client.post("/claude/sessions/s/interrupt")
            await other.until("complete")
            await client.send("mine")
            assert {event["turn_id"] for event in await client.until("complete")} == {"t"}


@pytest.mark.parametrize(
    ("query", "v1"),
    [
        *[(f"heartbeat={wrong}", v1) for wrong in ("0", "61", "x", "") for v1 in (False, True)],
        ("turn_id=", False),
        ("turn_id=a/b", False),
        ("turn_id=t", True),
    ],
)
async def test_a_wrong_parameter_is_4400(tmp_path: Path, query: str, v1: bool) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, f"/claude/ws/s?{query}", v1=v1) as client:
            code, reason = await client.closed()
            assert (code, reason.partition(":")[0]) == (4400, "invalid")


async def test_plain_text_is_no_frame(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url) as client:
            await client.send({"type": "interrupt"})
            (message,) = [event for event in await client.until("complete") if event["type"] == "message"]
            assert json.loads(message["content"][0]["text"]) == {"type": "interrupt"}


async def test_frames_of_a_subprotocol_that_is_unknown_are_no_queries(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        before = await history(served)
        async with talking(served.url, subprotocols=["portico.v2", "x"]) as client:
            code, reason = await client.closed()
            assert code == 4400 and reason.startswith("unknown_subprotocol: ")
        assert await history(served) == before


@pytest.mark.parametrize("v1", [False, True])
async def test_binary_messages_end_the_conversation(tmp_path: Path, v1: bool) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=v1) as client:
            await client.send(b"hello")
            code, reason = await client.closed()
            assert code == 4400 and reason.startswith("binary_message: ")


# Frames.


async def test_a_query_is_acknowledged_and_all_events_follow(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            answer = await client.ask({"type": "query", "content": "hi", "turn_id": "t"})
            assert answer == {"type": "ack", "turn_id": "t", "state": "running"}
        async with talking(served.url, "/claude/ws/s?after=0", v1=True) as client:
            await client.until("complete")
            await client.until("session", state="idle")
            again = await client.ask({"type": "query", "content": "hi", "turn_id": "t"})
            assert again == {"type": "ack", "turn_id": "t", "state": "complete"}
            blocks = [{"type": "text", "text": "in blocks"}]
            await client.send({"type": "query", "content": blocks})  # nobody wants an answer
            assert (await client.receive())["content"] == blocks


async def test_after_replays_and_then_all_is_live(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hi")
        before = await history(served)
        async with talking(served.url, "/claude/ws/s?after=2", v1=True) as client:
            assert await client.until("session", seq=before[-1]["seq"]) == before[2:]
            await served.run("more", turn_id="u")
            live = await client.until("session", state="idle")
        assert before + live == await history(served)


async def test_without_after_only_what_is_new_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hi")
        before = await history(served)
        async with talking(served.url, v1=True) as client:
            await served.run("more", turn_id="u")
            assert (await client.receive())["seq"] == before[-1]["seq"] + 1


async def test_resume_goes_back_and_on_from_there_exactly(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            await client.send({"type": "query", "content": SLOW})
            await client.until("delta")
            for number, after in enumerate((0, 3, 1)):
                await client.send({"type": "resume", "after": after, "id": number})
                await client.until("ack", id=number)
                assert (await client.receive())["seq"] == after + 1
            await client.send({"type": "resume", "after": 0})
            while (first := await client.receive())["seq"] != 1:
                pass
            seen = [first, *await client.until("complete")]
            seen += await client.until("session")
        assert seen == await history(served)


async def test_resume_works_while_nothing_happens(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hi")
        async with talking(served.url, v1=True) as client:
            for _ in range(2):
                assert await client.ask({"type": "resume", "after": 0}) == {"type": "ack"}
                assert await client.until("session", state="idle", seq=(await history(served))[-1]["seq"]) == (
                    await history(served)
                )


async def test_interrupt(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            idle = await client.ask({"type": "interrupt"})
            assert (idle["type"], idle["code"], idle["status"]) == ("nack", "not_running", 409)
            await client.send({"type": "query", "content": ENDLESS})
            await client.until("delta")
            assert await client.ask({"type": "interrupt", "id": 7}) == {"type": "ack"}
            assert (await client.until("complete"))[-1]["stop_reason"] == "interrupted"


@pytest.mark.parametrize(
    ("sent", "code", "status"),
    [
        ({"type": "query"}, "invalid", 422),
        ({"type": "query", "content": ""}, "invalid", 422),
        ({"type": "query", "query": "hi"}, "invalid", 422),
        ({"type": "query", "content": "x", "turn_id": "a b"}, "invalid", 422),
        ({"type": "query", "content": "x", "if_busy": "maybe"}, "invalid", 422),
        ({"type": "query", "content": "x", "more": 1}, "invalid", 422),
        ({"type": "interrupt", "now": True}, "invalid", 422),
        ({"type": "permission", "behavior": "allow"}, "invalid", 422),
        ({"type": "permission", "request_id": "r", "behavior": "perhaps"}, "invalid", 422),
        ({"type": "permission", "request_id": "r", "behavior": "allow"}, "request_not_found", 404),
        ({"type": "resume"}, "invalid", 422),
        ({"type": "resume", "after": "1"}, "invalid", 422),
        ({"type": "resume", "after": -1}, "invalid", 422),
        ({"type": "resume", "after": 999}, "after_too_large", 422),
        ({"type": "auth", "token": "wrong"}, "unauthenticated", 401),
        ({"type": "auth", "token": "bob-secret"}, "already_authenticated", 409),
        ({"type": "nonsense"}, "malformed", 400),
        ({"type": ["query"]}, "malformed", 400),
        ({}, "malformed", 400),
    ],
    ids=str,
)
async def test_a_frame_that_is_refused_is_answered_and_the_next_is_served(
    tmp_path: Path, sent: Message, code: str, status: int
) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            answer = await client.ask(sent)
            assert (answer["type"], answer["code"], answer["status"]) == ("nack", code, status)
            assert isinstance(answer["error"], str)
            assert await client.ask({"type": "auth", "token": "alice-secret"}) == {"type": "ack"}
            if status in (400, 422):
                await client.send(sent)  # without an id there is no other way to tell
                assert (await client.closed())[0] == 4400


@pytest.mark.parametrize(
    "text",
    ["", "hello", "[]", "null", '"x"', "{", '{"a":1,"a":2}', "NaN", "[" * 100_000, '{"id":true}', '{"id":[]}'],
    ids=lambda text: text[:20],
)
async def test_what_is_no_frame_ends_the_conversation(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            await client.send(text)
            code, reason = await client.closed()
            assert code == 4400 and reason.startswith("malformed: ")


async def test_a_refusal_without_an_id_is_told_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            await client.send({"type": "interrupt"})
            answer = await client.receive()
            assert (answer["type"], answer["code"]) == ("nack", "not_running") and "id" not in answer


async def test_an_answer_that_is_not_allowed_is_refused_and_the_request_still_waits(tmp_path: Path) -> None:
    given = {"file_path": "a"}
    query = json.dumps({"ask": {"tool_name": "Write", "input": given}})
    async with serving(tmp_path, disallowed_tools=("Edit(//secret/**)",), allowed_tools=("Read",)) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            assert (await client.ask({"type": "query", "content": query}))["type"] == "ack"
            request_id = (await client.until("permission_request"))[-1]["request_id"]
            allow = {"type": "permission", "request_id": request_id, "behavior": "allow"}
            refused = await client.ask({**allow, "updated_input": {"file_path": "/secret/a"}})
            assert (refused["type"], refused["code"], refused["status"]) == ("nack", "not_allowed", 403)
            # It is as it was: the same may be answered, with what was asked, and what is remembered is looked at too.
            assert await client.ask({**allow, "updated_input": given, "remember": True}) == {"type": "ack"}
        events = await history(served)
        (resolved,) = [event for event in events if event["type"] == "permission_resolved"]
        (notice,) = [event for event in events if event["type"] == "notice"]
        assert resolved["behavior"] == "allow" and resolved["seq"] + 1 == notice["seq"]
        rules = [{"toolName": "Write"}]
        assert (notice["name"], notice["detail"]) == (
            "not_remembered",
            {"request_id": request_id, "suggestions": [{"type": "addRules", "behavior": "allow", "rules": rules}]},
        )


async def test_all_see_the_same_over_whatever(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        seen: list[list[Message]] = []

        async def watch(path: str, v1: bool) -> None:
            async with talking(served.url, path, v1=v1) as client:
                ready.release()
                seen.append(await client.until("complete"))

        ready = anyio.Semaphore(0)
        async with anyio.create_task_group() as tasks:
            for v1 in (True, True, False):
                tasks.start_soon(watch, "/claude/ws/s?after=0", v1)
            for _ in range(3):
                await ready.acquire()
            await served.run(SLOW)
        assert seen == [(await history(served))[: len(seen[0])]] * 3


# Who may.


async def test_an_auth_frame_is_as_good_as_a_header(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, token=None, v1=True) as client:
            assert await client.ask({"type": "auth", "token": "alice-secret"}) == {"type": "ack"}
            await client.ask({"type": "query", "content": "hi"})
            await client.until("complete")
        async with talking(served.url, "/claude/ws/s?after=0", token=None, v1=True) as client:
            with access_lines() as lines:
                await client.send({"type": "auth", "token": "alice-secret"})
                await client.until("complete")
                await client.connection.close()
                record = await lines.wait("/claude/ws/s")
            assert record.__dict__["principal"] == "alice"


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize(
    ("token", "path", "code", "reason"),
    [
        ("wrong", "/claude/ws/s", 4401, "unauthenticated: "),
        ("bob-secret", "/claude/ws/s", 4404, "session_not_found: "),
        ("alice-secret", "/claude/ws/nothing", 4404, "session_not_found: "),
        ("alice-secret", "/nothing", 4404, "not_found: "),
        ("alice-secret", "/claude/sessions", 4404, "not_found: "),
        ("alice-secret", "/claude/ws/s?after=x", 4400, "invalid: "),
        ("alice-secret", "/claude/ws/s?after=-1", 4400, "invalid: "),
        ("alice-secret", "/claude/ws/s?after=99", 4400, "after_too_large: "),
        ("alice-secret", "/claude/ws/s?query=x", 4400, "invalid: "),
        ("alice-secret", "/claude/ws/s?after=1&after=2", 4400, "malformed: "),
        ("alice-secret", "/claude/ws/s?token=alice-secret", 4400, "invalid: "),
    ],
)
async def test_what_is_refused_is_accepted_first_and_then_closed(
    tmp_path: Path, v1: bool, token: str, path: str, code: int, reason: str
) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, path, token=token, v1=v1) as client:
            closed = await client.closed()
            assert closed[0] == code and closed[1].startswith(reason)


async def test_an_admin_may_whatever_the_owner_may(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, token="admin-secret") as client:
            await client.send("hi")
            assert (await client.receive())["principal"] == "root"


@pytest.mark.parametrize("header", ["alice-secret", "Basic alice-secret", "Bearer", ""])
async def test_a_header_that_is_none_does_not_ask_for_a_frame(tmp_path: Path, header: str) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, token=None, v1=True, headers={"Authorization": header}) as client:
            assert (await client.closed())[0] == 4401


async def test_without_credentials_there_is_no_plain_form(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, token=None) as client:
            assert (await client.closed())[0] == 4401


@pytest.mark.parametrize(
    "first",
    [{"type": "query", "content": "x"}, {"type": "auth", "token": "wrong"}, {"type": "auth"}, {}],
    ids=str,
)
async def test_a_first_frame_without_good_credentials_is_the_last(tmp_path: Path, first: Message) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, token=None, v1=True) as client:
            await client.send(first)
            assert (await client.closed())[0] in (4401, 4400)
        assert (await history(served))[-1]["type"] == "session"


async def test_a_wrong_token_is_answered_where_an_answer_is_wanted(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        async with talking(served.url, token=None, v1=True) as client:
            answer = await client.ask({"type": "auth", "token": "wrong"})
            assert (answer["type"], answer["code"]) == ("nack", "unauthenticated")
            assert (await client.closed())[0] == 4401


async def test_credentials_that_do_not_come_end_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "AUTH_SECONDS", 0.2)
    async with serving(tmp_path) as served:
        async with talking(served.url, token=None, v1=True) as client:
            assert (await client.closed())[0] == 4401


async def test_before_its_credentials_a_client_may_send_little(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        large = {"type": "query", "content": "x" * 200_000}
        async with talking(served.url, token=None, v1=True) as client:
            await client.send(large)
            assert (await client.closed())[0] == 1009
        async with talking(served.url, token=None, v1=True) as client:
            await client.ask({"type": "auth", "token": "alice-secret"})
            assert (await client.ask(large))["type"] == "ack"


# How it ends.


async def test_a_session_that_is_closed_ends_the_conversation(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client, talking(served.url) as plain:
            await served.client.delete("/claude/sessions/s")
            assert (await client.until("session", state="closed"))[-1]["seq"] == 2
            assert (await client.closed())[0] == (await plain.closed())[0] == 1000
        async with talking(served.url, "/claude/ws/s?after=0", v1=True) as client:
            assert len(await client.until("session", state="closed")) == 2
            assert (await client.closed())[0] == 1000


async def test_the_end_of_serving_is_1001_to_everybody(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.session("busy")
        async with (
            talking(served.url, v1=True) as quiet,
            talking(served.url) as plain,
            talking(served.url, "/claude/ws/s?turn_id=t") as named,
            talking(served.url, "/claude/ws/busy", v1=True) as busy,
            talking(served.url, token=None, v1=True) as stranger,
        ):
            await busy.ask({"type": "query", "content": ENDLESS})
            await busy.until("delta")
            with anyio.fail_after(HANG_SECONDS):
                await served.stop()
            for client in (quiet, plain, named, busy, stranger):
                assert (await client.closed())[0] == 1001


async def test_while_draining_reads_go_on_and_queries_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as running, talking(served.url) as plain:
            await running.ask({"type": "query", "content": json.dumps({"deltas": 50, "gap": 0.02})})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(served.engine.drain, 10)
                await anyio.lowlevel.checkpoint()
                answer = await running.ask({"type": "query", "content": "x"})
                assert (answer["code"], answer["status"]) == ("draining", 503)
                await plain.send("x")
                assert (await plain.receive())["code"] == "draining"
                async with talking(served.url, "/claude/ws/s?after=0", v1=True) as late:
                    await late.until("complete")
                    await running.until("complete")
                    assert (await late.closed())[0] == (await running.closed())[0] == 1001


async def test_a_fault_of_ours_is_1011_and_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object, **more: object) -> None:
        raise RuntimeError("the password is swordfish")

    async with serving(tmp_path) as served:
        await served.session()
        async with talking(served.url, v1=True) as client:
            monkeypatch.setattr(Engine, "interrupt", broken)
            await client.send({"type": "interrupt", "id": 1})
            code, reason = await client.closed()
            assert code == 1011 and "swordfish" not in reason
        assert (await served.client.get("/healthz")).status_code == 200
    assert "swordfish" in caplog.text


async def test_a_store_that_fails_is_1013(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*args: object, **more: object) -> None:
        raise StoreFailed("the disk is full")

    async with serving(tmp_path) as served:
        await served.session()
        monkeypatch.setattr(Engine, "reader", failing)
        async with talking(served.url) as client:
            assert (await client.closed())[0] == 1013


@pytest.mark.parametrize("code", [1000, 3000])
async def test_a_client_that_leaves_is_logged_and_its_turn_goes_on(tmp_path: Path, code: int) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        with access_lines() as lines:
            async with talking(served.url) as client:
                await client.send(SLOW)
                await client.until("delta")
                await client.connection.close(code)
            fields = (await lines.wait("/claude/ws/s")).__dict__
        assert (fields["method"], fields["status"], fields["principal"]) == ("WEBSOCKET", code, "alice")
        assert fields["bytes"] > 100
        async with talking(served.url, "/claude/ws/s?after=0") as client:
            assert (await client.until("complete"))[-1]["stop_reason"] == "end_turn"


async def test_http_on_the_path_of_a_websocket_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        answer = await served.client.get("/claude/ws/s")
        assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")
        assert answer.headers["upgrade"] == "websocket" and "proxy" not in answer.json()["detail"]
        # A proxy that takes Upgrade off leaves the rest. The credentials of such a client may have been still to come.
        del served.client.headers["authorization"]
        for left in ({"Sec-WebSocket-Version": "13"}, {"Upgrade": "websocket"}):
            stripped = await served.client.get("/claude/ws/s", headers=left)
            assert (stripped.status_code, stripped.json()["code"]) == (426, "upgrade_required")
            assert "proxy_set_header Upgrade $http_upgrade;" in stripped.json()["detail"]
        wrong = await served.client.get("/claude/ws/s", headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401
        alice = {"Authorization": "Bearer alice-secret"}
        assert (await served.client.post("/claude/ws/s", headers=alice)).status_code == 405


async def test_alone_there_is_nothing_but_websockets_and_health(tmp_path: Path) -> None:
    async with serving(tmp_path, rest=False) as served:
        assert served.url.startswith("ws://")
        await served.engine.create(Principal("alice"), NewSession(session_id="s"))
        async with httpx.AsyncClient(
            base_url=served.url.replace("ws:", "http:"), trust_env=False, timeout=HANG_SECONDS
        ) as http:
            assert [(await http.get(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
            headers = {"authorization": "Bearer alice-secret"}
            for path in ("/claude/sessions", "/claude/stream/s?query=x", "/claude/sessions/s/events"):
                assert (await http.get(path, headers=headers)).status_code == 404
        async with talking(served.url) as client:
            await client.send("hi")
            await client.until("complete")


async def test_what_is_no_handshake_is_no_websocket(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(InvalidStatus) as refused:
            async with talking(served.url, headers={"Origin": "https://evil.example"}):
                pass
        assert refused.value.response.status_code == 403

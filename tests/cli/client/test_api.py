"""Streams that outlive their connections, against a real server with the real CLI, over a network that breaks."""

from __future__ import annotations

import json
import os
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from portico.cli.client.api import HEARTBEAT, Client, Event
from portico.cli.client.connection import find_endpoint
from portico.cli.client.errors import HistoryLost, ProblemError, Unreachable
from tests.support.limits import HANG_SECONDS
from tests.support.proxy import SILENT, proxy
from tests.support.server import RunningServer, running_server

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SAY = "".join(f"w{number} " for number in range(200))
SLOWLY = f'[[{{"say": "{SAY}", "gap_ms": 2}}]]'


def client_of(server: RunningServer, url: str, patience: float = 20, silence: float = 45) -> Client:
    return Client(find_endpoint({}, server.data_dir, server=url), patience=patience, silence=silence)


def text_of(events: list[Event]) -> str:
    return "".join(event["content"] for event in events if event["type"] == "delta")


async def turns_of(server: RunningServer, session_id: str) -> int:
    async with server.http() as http:
        return int((await http.get(f"/sessions/{session_id}")).json()["turns"])


@pytest.mark.parametrize("after", [1, 100, 300, 700, 1500, 4000, 9000])
async def test_a_cut_answer_comes_exactly_once(server: RunningServer, real: str, after: int) -> None:
    before = await turns_of(server, real)
    async with proxy(server.url, [None, after, after + 500, 3 * after]) as network:
        async with client_of(server, network.url) as client:
            await client.session(real)
        # A client anew, so that its stream is on a connection of its own: the second.
        async with (
            client_of(server, network.url) as client,
            aclosing(client.query(real, SLOWLY)) as stream,
        ):
            events = [event async for event in stream]
        assert len(network.requests) > 2, "nothing was cut"
    assert text_of(events) == SAY
    assert [event["type"] for event in events].count("query") == 1
    assert events[-1]["type"] == "complete"
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))
    assert await turns_of(server, real) == before + 1


async def test_a_silent_connection_is_given_up_for_another(server: RunningServer) -> None:
    async with proxy(server.url, [None, SILENT]) as network:
        async with client_of(server, network.url) as client:
            session_id = (await client.create_session({}))["session_id"]
        async with (
            client_of(server, network.url, silence=1.5) as client,
            aclosing(client.query(session_id, "hello")) as stream,
        ):
            events = [event async for event in stream]
        assert "hello" in text_of(events)
        methods = [line.split()[0] for line in network.requests]
        # A server on a busy machine may be silent for as long; then the client reads on.
        assert methods[:3] == ["POST", "POST", "POST"] and set(methods[3:]) <= {"GET"}
    assert await turns_of(server, session_id) == 1


@pytest.mark.long
async def test_it_asks_for_heartbeats_whatever_the_operator_has_set(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path, "--heartbeat", "60", "--driver", "echo") as server,
        proxy(server.url, []) as network,
    ):
        async with client_of(server, network.url, silence=2 * HEARTBEAT) as client:
            session_id = (await client.create_session({}))["session_id"]
            silent = json.dumps({"deltas": 1, "gap": 3 * HEARTBEAT})
            async with aclosing(client.query(session_id, silent)) as stream:
                events = [event async for event in stream]
        assert events[-1]["type"] == "complete"
        assert [line.split()[0] for line in network.requests] == ["POST"]  # no connection was lost


async def test_an_outage_is_told_and_outlived(server: RunningServer) -> None:
    told: list[str | None] = []
    async with proxy(server.url, []) as network:

        def tell(text: str | None) -> None:
            told.append(text)
            network.come_back()  # as soon as it is noticed

        endpoint = find_endpoint({}, server.data_dir, server=network.url)
        async with Client(endpoint) as client:
            session_id = (await client.create_session({}))["session_id"]
        network.go_down()
        async with (
            Client(endpoint, patience=20, on_trouble=tell) as client,
            aclosing(client.query(session_id, "hello")) as stream,
        ):
            events = [event async for event in stream]
    assert "hello" in text_of(events)
    assert len(told) == 2 and told[0] and told[1] is None


async def test_it_gives_up_when_its_patience_is_over(server: RunningServer) -> None:
    async with proxy(server.url, []) as network:
        network.go_down()
        async with client_of(server, network.url, patience=1) as client:
            with anyio.fail_after(HANG_SECONDS), pytest.raises(Unreachable, match="broke"):
                async for _ in client.query("any", "hello"):
                    pass


async def test_a_turn_that_a_stopped_server_has_cut_ends(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path, "--drain-timeout", "0.5", "--driver", "echo") as server,
        client_of(server, server.url, 2) as client,
    ):
        session_id = (await client.create_session({}))["session_id"]
        seen: list[Event] = []
        with anyio.fail_after(HANG_SECONDS):
            try:
                async for event in client.query(session_id, '{"deltas": null, "gap": 0.02}'):
                    seen.append(event)
                    if len(seen) == 5:
                        await server.stop()
            except Unreachable as error:
                assert server.url in str(error)
            else:
                assert seen[-1]["stop_reason"] != "end_turn"


async def test_following_a_turn_from_its_middle(server: RunningServer, real: str) -> None:
    async with client_of(server, server.url) as client:
        async with aclosing(client.query(real, SLOWLY, turn_id="t")) as stream:
            first = [await anext(stream) for _ in range(10)]  # and leave it in the middle
        async with aclosing(client.follow(real, "t", after=first[-1]["seq"])) as stream:
            rest = [event async for event in stream]
    assert text_of(first + rest) == SAY


async def test_problems_carry_the_servers_code(server: RunningServer) -> None:
    async with client_of(server, server.url) as client:
        with pytest.raises(ProblemError) as raised:
            async for _ in client.query("no-such-session", "hello"):
                pass
        assert (raised.value.status, raised.value.code) == (404, "session_not_found")
        await client.create_session({"session_id": "taken"})
        with pytest.raises(ProblemError) as raised:
            await client.create_session({"session_id": "taken"})
        assert raised.value.status == 409
        with pytest.raises(ProblemError) as raised:
            await client.session("../../healthz?x=#y")
        assert raised.value.status == 404


async def test_interrupting_a_turn_that_waits_leaves_the_running_one_alone(server: RunningServer, real: str) -> None:
    async with client_of(server, server.url) as client:
        async with aclosing(client.query(real, SLOWLY, turn_id="first")) as running:
            seen = [await anext(running) for _ in range(5)]
            async with aclosing(client.query(real, "hello", turn_id="second")) as waiting:
                await anext(waiting)
                await client.interrupt(real, "second", begun=False)
                rest = [event async for event in waiting]
                assert [event.get("stop_reason") for event in rest] == ["withdrawn"]
            seen += [event async for event in running]
    assert text_of(seen) == SAY
    assert seen[-1]["stop_reason"] == "end_turn"


@pytest.mark.long
async def test_an_answer_that_was_deleted_is_told_from_one_that_is_empty(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path, "--driver", "echo", "--max-body", "2MiB") as server,
        client_of(server, server.url) as client,
    ):
        session_id = (await client.create_session({}))["session_id"]
        for turn_id in ("early", "late"):
            incompressible = os.urandom(700_000).hex()
            async for _ in client.query(session_id, incompressible, turn_id=turn_id):
                pass
    (tmp_path / "again").mkdir()
    variables = {"PORTICO_RETENTION_MB": "1", "PORTICO_DATA_DIR": str(server.data_dir)}
    async with running_server(tmp_path / "again", **variables) as server, client_of(server, server.url) as client:
        with anyio.fail_after(HANG_SECONDS):
            while (first := (await client.history(session_id, after=0, limit=1))[0])["type"] != "gap":
                await anyio.sleep(0.1)
        with pytest.raises(HistoryLost, match="deleted on the server"):
            async for event in client.follow(session_id, "early", after=0):
                raise AssertionError(event)
        exported = [event async for event in client.whole_history(session_id)]
        assert exported[0] == first and [event["seq"] for event in exported[1:2]] in ([], [first["min_seq"]])

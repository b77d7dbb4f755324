"""Tests of what clients ask for, and of what they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel

from portico.core.engine import Engine
from portico.core.requests import NewSession, NewTurn
from portico.testing.background import background
from portico.testing.engine import scripted_engine
from portico.testing.following import bounded
from portico.testing.scripted import Ask, Gate, turn
from portico.testing.transport.observations import refusal_text
from portico.testing.transport.stand_ins import HoldingEngine, Watch
from portico.testing.transport.transport_client import ALICE, BOB, KNOWN, ROOT, STEP, Refused, TransportClient
from portico.testing.transport.transport_harness import TransportHarness


class RequestTests(TransportHarness):
    """Tests of what clients ask for, and of what they are refused."""

    # What is asked.

    async def test_the_same_turn_id_runs_once(self, tmp_path: Path) -> None:
        """A query that is sent again with its turn_id, by whatever connection, is taken, and not run again."""
        gate = Gate()
        async with self._serving(tmp_path, turn(gate), turn()) as server:
            for _ in range(2):
                await self._query(server, "once")
            await self._reached(gate)
            gate.open()
            await server.rested("t")
            await self._query(server, "once")
            stored = await server.rested("t")
            queries = [event for event in stored if event["type"] == "query"]
            assert len(queries) == 1, f"one turn_id has run {len(queries)} times"
            assert queries[0]["turn_id"] == "t", f"the turn_id t has become {queries[0]['turn_id']!r}"

    async def test_a_running_turn_can_be_interrupted(self, tmp_path: Path) -> None:
        """An interrupt stops the running turn, and is refused where there is none."""
        self._needs("interrupt")
        gate = Gate()
        async with self._serving(tmp_path, turn(gate)) as server:
            await self._query(server)
            await self._reached(gate)
            async with self._client(server) as client:
                await client.interrupt("s")
            stored = await server.rested("t")
            assert stored[-2]["stop_reason"] == "interrupted", f"the turn was interrupted, and ended so: {stored[-2]}"
            code = await self._refusal(server, ALICE, lambda client: client.interrupt("s"))
            assert code == "not_running", f"an interrupt without a turn: {refusal_text(code, 'not_running')}"

    async def test_a_permission_can_be_answered(self, tmp_path: Path) -> None:
        """The first answer to a permission request counts, as the caller's, and a second one is refused."""
        self._needs("answer")
        gate = Gate()
        async with self._serving(tmp_path, turn(Ask("Write", request_id="r"), gate)) as server:
            async with self._watching(server) as watch:
                await self._query(server)
                asked = await watch.of_type("permission_request")
                async with self._client(server) as client:
                    await client.answer("s", asked["request_id"], "deny")
                told = await watch.of_type("permission_resolved")
                said = told["behavior"], told["principal"], told["reason"]
                assert said == ("deny", "alice", "answered"), f"alice has denied it, and all are told {told}"
                code = await self._refusal(server, ALICE, lambda client: client.answer("s", "r", "allow"))
                assert code == "already_resolved", f"a second answer: {refusal_text(code, 'already_resolved')}"
            gate.open()
            await server.rested("t")

    # What is refused.

    async def test_an_unknown_session_is_refused(self, tmp_path: Path) -> None:
        """Whatever is asked of a session that there is not is refused with session_not_found."""
        async with self._serving(tmp_path) as server:
            for name, operation in self._operations("unknown").items():
                code = await self._refusal(server, ALICE, operation)
                assert code == "session_not_found", (
                    f"{name}, of an unknown session: {refusal_text(code, 'session_not_found')}"
                )

    async def test_strangers_are_refused(self, tmp_path: Path) -> None:
        """A caller without credentials, or with wrong ones, is refused with unauthenticated, and nothing is done."""
        async with self._asking(tmp_path) as server:
            before = await server.history()
            operations = {**self._operations("s"), **self._operations("unknown", " (unknown session)")}
            if "create" not in self.cannot():
                operations["create"] = lambda client: client.create("new")
            for what, secret in {"no credentials": None, "wrong ones": "nobody's", "others": ALICE + "x"}.items():
                for name, operation in operations.items():
                    code = await self._refusal(server, secret, operation)
                    assert code == "unauthenticated", f"{name}, with {what}: {refusal_text(code, 'unauthenticated')}"
            assert await server.history() == before, "a stranger was refused, and yet something has happened"

    async def test_what_is_somebody_elses_is_unknown(self, tmp_path: Path) -> None:
        """Whatever is asked of somebody else's session is refused as for one that there is not, and not done."""
        async with self._asking(tmp_path) as server:
            before = await server.history()
            for name, operation in self._operations("s").items():
                code = await self._refusal(server, BOB, operation)
                assert code == "session_not_found", (
                    f"{name}, of somebody else's session: {refusal_text(code, 'session_not_found')}"
                )
            assert await server.history() == before, "somebody else was refused, and yet something has happened"

    async def test_a_client_stays_with_the_session_that_it_began_with(self, tmp_path: Path) -> None:
        """A client that begins with one session is told nothing of a later one of the same id.

        It is an admin, who may use both; and the id becomes the later one's between two calls of the engine.
        """
        for nth in range(1, 6):
            async with scripted_engine(tmp_path / f"engine{nth}") as engine:
                held = HoldingEngine(engine)
                folder = tmp_path / str(nth)
                folder.mkdir()
                async with self._served(cast(Engine, held), folder) as server, background() as tasks:
                    await engine.create(KNOWN[ALICE], NewSession(session_id="s"))
                    await engine.close(KNOWN[ALICE], "s")
                    held.left = nth
                    watch = Watch(self.seconds)
                    tasks.start_soon(watch.run, self._client(server, ROOT), "s", 0)
                    with bounded(self.seconds, "the events of a closed session"):
                        while not (held.reached.is_set() or watch.over.is_set()):  # noqa: ASYNC110 - either of two
                            await anyio.sleep(STEP)
                    if not held.reached.is_set():
                        return  # it does not call the engine so often
                    await engine.close(KNOWN[ALICE], "s", purge=True)
                    await engine.create(KNOWN[BOB], NewSession(session_id="s"))
                    await engine.query(KNOWN[BOB], "s", NewTurn("hello", "t"))
                    await server.rested("t")
                    held.released.set()
                    await engine.close(KNOWN[BOB], "s")
                    with bounded(self.seconds, "a refusal, or the end of the events"):
                        await watch.over.wait()
                    assert watch.failure is None or isinstance(watch.failure, Refused), f"it met {watch.failure!r}"
                    told = [event for event in watch.events if event.get("principal") == "bob"]
                    assert not told, f"it is told of the next session of that id: {told[0]}"

    async def test_an_admin_may_do_everything(self, tmp_path: Path) -> None:
        """An admin sees and steers everybody's sessions."""
        async with self._asking(tmp_path) as server:
            for name, operation in self._operations("s").items():
                code = await self._refusal(server, ROOT, operation)
                assert code is None, f"{name}, by an admin, of somebody's session: refused with {code}"
            queries = [e["principal"] for e in await server.history() if e["type"] == "query"]
            assert queries == ["alice", "root"], f"the queries of alice and root are those of {queries}"

    async def test_wrong_values_are_refused(self, tmp_path: Path) -> None:
        """A query or a turn_id that is none is refused, with a code, and starts nothing."""
        contents: list[Any] = ["", " \n", 5, None, True, {}, {"text": "a"}, [], ["a"], [{"type": "nonsense"}]]
        contents += [[{"type": "text"}], [{"type": "text", "text": 5}]]
        values = [(content, "t") for content in contents] + [("hello", "no turn"), ("hello", "t" * 1000)]
        async with self._serving(tmp_path) as server:
            before = await server.history()
            for content, turn_id in values:

                async def ask(client: TransportClient, content: Any = content, turn_id: str = turn_id) -> None:
                    await client.query("s", content, turn_id)

                what = f"the query {content!r} with the turn_id {turn_id[:10]!r}"
                code = await self._refusal(server, ALICE, ask)
                assert code is not None, f"{what} was taken"
                assert code in ("invalid", "invalid_content", "malformed"), f"{what} is refused with {code!r}"
            assert await server.history() == before, "a wrong query was refused, and yet something has happened"
            await self._query(server, "hello")
            await server.rested("t")

    async def test_a_refusal_has_the_code_of_its_reason(self, tmp_path: Path) -> None:
        """A refusal by the engine reaches the client with the engine's code, and not as a fault of the server."""
        async with self._asking(tmp_path, max_queued_turns=0) as server:

            async def ahead(client: TransportClient) -> None:
                async for _ in client.events("s", 1000):
                    return

            code = await self._refusal(server, ALICE, ahead)
            assert code == "after_too_large", f"events from behind the end: {refusal_text(code, 'after_too_large')}"
            code = await self._refusal(server, ALICE, lambda client: client.query("s", "more", "t2"))
            assert code == "queue_full", f"a query too many: {refusal_text(code, 'queue_full')}"

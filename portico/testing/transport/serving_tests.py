"""Tests of serving sessions, and of coming back to them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from portico.core.requests import NewSession
from portico.testing.scripted import Gate, turn
from portico.testing.transport.observations import compare, delta, free_port, refusal_text
from portico.testing.transport.transport_client import ALICE, BOB, HUGE, KNOWN, ROOT, STRANGE
from portico.testing.transport.transport_harness import TransportHarness


class ServingTests(TransportHarness):
    """Tests of serving sessions, and of coming back to them."""

    # It serves.

    async def test_it_has_a_name(self, tmp_path: Path) -> None:
        """The name of a transport is a text that is not empty."""
        name = self.create(self._context(tmp_path, 0)).name
        assert isinstance(name, str), f"the name is {name!r}"
        assert name.strip(), "the name is empty"

    async def test_it_says_where_it_is_once_it_serves(self, tmp_path: Path) -> None:
        """The address is told once it can be reached, and not before."""
        async with self._serving(tmp_path) as server:
            assert isinstance(server.address, str), f"the address is {server.address!r}"
            assert server.address, "the address is empty"
            async with self._client(server) as client:
                await client.query("s", "hello", "t")
            await server.rested("t")

    async def test_a_turn_is_told_whole_and_in_order(self, tmp_path: Path) -> None:
        """A client is told every event of the session, in order and as it is stored."""
        async with self._serving(tmp_path) as server, self._watching(server) as watch:
            for turn_id in ("t1", "t2"):
                async with self._client(server) as client:
                    await client.query("s", "one two three", turn_id)
                stored = await server.rested(turn_id)
            await watch.seq(len(stored))
            compare(watch.events, stored, "a client that watched from the start")

    async def test_events_come_as_they_happen(self, tmp_path: Path) -> None:
        """A client is told of what has happened while the turn still runs."""
        gate = Gate()
        async with (
            self._serving(tmp_path, turn(delta("early"), gate, delta("late"))) as server,
            self._watching(server) as watch,
        ):
            await self._query(server)
            await watch.content("early")
            await self._reached(gate)
            gate.open()
            await watch.of_type("complete")

    async def test_all_who_watch_see_the_same(self, tmp_path: Path) -> None:
        """Several clients at once, of one session, see the same events; and of another session, those of that."""
        async with self._serving(tmp_path) as server, AsyncExitStack() as stack:
            await server.engine.create(KNOWN[ALICE], NewSession(session_id="other"))
            sessions = ["s", "other", "s", "s", "other"]
            watches = [await stack.enter_async_context(self._watching(server, session)) for session in sessions]
            async with self._client(server) as one, self._client(server) as two:
                await one.query("s", "one two", "t")
                await two.query("other", "three four five", "t")
            stored = {session: await server.rested("t", session) for session in set(sessions)}
            for session, watch in zip(sessions, watches, strict=True):
                await watch.seq(len(stored[session]))
                compare(watch.events, stored[session], f"one of several who watched the session {session!r}")

    async def test_a_session_can_be_opened(self, tmp_path: Path) -> None:
        """A session that a client opens is there, and its own; the same name again is refused."""
        self._needs("create")
        async with self._serving(tmp_path) as server:
            async with self._client(server, BOB) as client:
                await client.create("new")
                await client.query("new", "hello", "t")
            found = await server.engine.session(KNOWN[ROOT], "new")
            assert found["owner"] == "bob", f"the session that bob has opened is {found['owner']}'s"
            code = await self._refusal(server, BOB, lambda client: client.create("new"))
            assert code == "session_exists", (
                f"the name of a session that exists: {refusal_text(code, 'session_exists')}"
            )

    async def test_two_transports_serve_one_engine(self, tmp_path: Path) -> None:
        """A query over one transport is seen over another, and one that stops leaves the other serving."""
        (other_folder := tmp_path / "other").mkdir()
        async with self._serving(tmp_path) as one, self._served(one.engine, other_folder) as other:
            async with self._watching(one) as here, self._watching(other) as there:
                await self._query(one, "hello")
                stored = await one.rested("t")
                for watch in (here, there):
                    await watch.seq(len(stored))
                    compare(watch.events, stored, "a client of one of two transports")
            await one.stop()
            await self._query(other, "hello", "t2")
            await other.rested("t2")

    # What is told.

    async def test_events_arrive_unchanged(self, tmp_path: Path) -> None:
        """Line breaks, NUL, emoji, halves of surrogate pairs and a MiB of text arrive as they are stored."""
        async with self._serving(tmp_path, turn(*map(delta, [*STRANGE, HUGE]))) as server:
            async with self._watching(server) as live:
                await self._query(server)
                stored = await server.rested("t")
                await live.seq(len(stored))
            async with self._watching(server) as later:
                await later.seq(len(stored))
            told = [event["content"] for event in stored if event["type"] == "delta"]
            assert told == [*STRANGE, HUGE], "the engine has changed them"
            for watch in (live, later):
                compare(watch.events, stored, "a client that was told strange texts")

    async def test_a_query_arrives_unchanged(self, tmp_path: Path) -> None:
        """The query is stored as the client has written it: strange texts, a long one, and a list of blocks."""
        contents: list[Any] = [text for text in STRANGE if text.strip()]
        contents += [HUGE, [{"type": "text", "text": "\u2028 \U0001f600"}, {"type": "text", "text": "b"}]]
        scripts = [turn() for _ in contents]
        async with self._serving(tmp_path, *scripts) as server, self._client(server) as client:
            for number, content in enumerate(contents):
                await client.query("s", content, f"t{number}")
                stored = await server.rested(f"t{number}")
                (query,) = [e for e in stored if e["type"] == "query" and e["turn_id"] == f"t{number}"]
                assert query["content"] == content, f"{str(content)[:80]!r} has become {str(query['content'])[:80]!r}"
                assert query["principal"] == "alice", f"the query of alice is {query['principal']}'s"

    # Coming back.

    async def test_who_comes_back_goes_on_exactly_there(self, tmp_path: Path) -> None:
        """For every N, after=N gives N+1, N+2 ... of what is stored, with nothing missing, doubled or changed."""
        async with self._serving(tmp_path) as server:
            await self._query(server, "one two three four")
            stored = await server.rested("t")
            for after in range(len(stored)):
                async with self._watching(server, after=after) as watch:
                    await watch.seq(len(stored))
                compare(watch.events, stored[after:], f"a client that came back with after={after}")

    async def test_cut_in_mid_turn_nothing_is_missing(self, tmp_path: Path) -> None:
        """A client that is cut after each event of a running turn, and comes back with after=N, sees each once."""
        gates = [Gate() for _ in range(5)]
        steps = [step for number, gate in enumerate(gates) for step in (delta(str(number)), gate)]
        async with self._serving(tmp_path, turn(*steps)) as server:
            await self._query(server)
            seen: list[Mapping[str, Any]] = []
            for gate in gates:
                await self._reached(gate)
                stored = await server.history()
                while len(seen) < len(stored):
                    async with self._watching(server, after=len(seen)) as watch:
                        await watch.until(lambda event: True, f"the event behind {len(seen)}")
                    seen.append(watch.events[0])
                async with self._watching(server, after=len(seen)) as watch:  # cut while it waits
                    gate.open()
                    await watch.until(lambda event: True, f"the event behind {len(seen)}")
                seen += watch.events
            stored = await server.rested("t")
            if len(seen) < len(stored):
                async with self._watching(server, after=len(seen)) as watch:
                    await watch.seq(len(stored))
                seen += watch.events
            compare(seen, stored, "a client that was cut again and again")

    async def test_it_goes_on_after_a_restart(self, tmp_path: Path) -> None:
        """Clients come back with after=N once the transport is stopped and another one is started there."""
        port = free_port()
        async with self._serving(tmp_path, port=port) as server:
            await self._query(server, "one two three")
            stored = await server.rested("t")
            async with self._watching(server) as before:
                await before.seq(4)
                await server.stop()
                await before.end("a stop")
            seen = len(before.events)
            compare(before.events, stored[:seen], "a client of the first transport")
            async with self._served(server.engine, tmp_path, port) as again:
                await self._query(again, "four", "t2")
                stored = await again.rested("t2")
                async with self._watching(again, after=seen) as after:
                    await after.seq(len(stored))
                compare(after.events, stored[seen:], "a client that came back to another transport")

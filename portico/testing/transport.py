"""What every transport has to do, as a class of tests.

class TestMyTransport(TransportConformance):
    def create(self, context: Context) -> Transport:
        return MyTransport(context)

    def connect(self, address: str, secret: str | None) -> AbstractAsyncContextManager[TransportClient]:
        return my_client(address, secret)
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from types import coroutine
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import psutil
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskStatus

from portico.config.settings import Settings
from portico.core.engine import Engine
from portico.core.events import Delta, Event
from portico.core.principal import Callers, Principal
from portico.core.requests import NewSession, NewTurn
from portico.core.store import READ_BYTES, EventStore
from portico.plugins.context import Context
from portico.plugins.memory_store.store import MemoryStore
from portico.plugins.token_auth.authenticator import TokenAuthenticator
from portico.testing.background import background
from portico.testing.engine import scripted_engine
from portico.testing.following import bounded
from portico.testing.scripted import Ask, Gate, ScriptedDriver, Step, turn
from portico.transports.base import Transport, TransportFailed

ALICE, BOB, ROOT = (f"{name}-secret-0123456789" for name in ("alice", "bob", "root"))
"""The secrets of the callers whom the suite's `Context` knows. The last one is an admin."""

KNOWN: Mapping[str, Principal] = {ALICE: Principal("alice"), BOB: Principal("bob"), ROOT: Principal("root", admin=True)}

GARBAGE: tuple[bytes, ...] = (
    b"\0",
    b"\n\n\r\n\r\n",
    b"\xff\xfe\xfd" * 1000 + b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b'{"type":"',
    b"[]\nnull\n1e999\n",
    b"{}\n" * 1000,
    b"[" * 100_000 + b"\n",
    b"x" * (1024 * 1024),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),  # how TLS begins
)
"""What makes sense on hardly any wire."""

STRANGE: tuple[str, ...] = (
    "",
    " \t ",
    "line\nbreak\r\n, and \x85, \u2028, \u2029",
    "NUL \0, ESC \x1b, DEL \x7f",
    "\u00fc \u5bc6\u7801 \U0001f600 e\u0301 \ufeff \uffff",
    "half of a pair: \ud800",
    'quotes "\\" \\u0000 </script>',
    "data: x\n\nid: 7\n\n",
)

HUGE = "x" * (1024 * 1024)

FLOOD = json.dumps({"deltas": 256, "size": 128 * 1024})
"""A query to which an echo says 32 MiB: more than kernels keep for a connection."""

STEP = 0.02


class Refused(Exception):
    """What a `TransportClient` raises when the server refuses what was asked; ``code`` is the server's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class TransportClient(Protocol):
    """A client of the transport, which the author of its suite brings along.

    It may take one connection for all, or one for each call. A refusal is raised as `Refused`, at the latest by the
    call that it is about.
    """

    async def create(self, session_id: str) -> None:
        """Open a session of this name."""

    async def query(self, session_id: str, content: Any, turn_id: str) -> None:
        """Start a turn; return once the server has said that it will run. ``content`` goes out as it is."""

    async def interrupt(self, session_id: str) -> None:
        """Stop the running turn."""

    async def answer(self, session_id: str, request_id: str, behavior: str) -> None:
        """Answer a permission request: ``allow`` or ``deny``."""

    def events(self, session_id: str, after: int) -> AsyncIterator[Mapping[str, Any]]:
        """The events behind ``after``, from JSON, and then live, until the server ends this.

        Must take nothing off the connection while it is not asked, but for a buffer of a MiB or so.
        """


class _Watch:
    """The ``events`` that a client has seen so far. Once it is `over`, ``failure`` is what it has raised, if it did."""

    def __init__(self, seconds: float) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.failure: Exception | None = None
        self.over = anyio.Event()
        self._seconds = seconds
        self._changed = anyio.Event()
        self._reading = anyio.CancelScope()

    async def run(self, client: AbstractAsyncContextManager[TransportClient], session_id: str, after: int) -> None:
        try:
            async with client as connected:
                with self._reading:  # so that whatever ends the reading, the client is left in peace
                    async for event in connected.events(session_id, after):
                        self.events.append(event)
                        self._wake()
        except Exception as failure:
            self.failure = failure
        finally:
            self.over.set()
            self._wake()

    async def until(self, found: Callable[[Mapping[str, Any]], bool], what: str) -> Mapping[str, Any]:
        """The first event that ``found`` is true of; fails the test where none comes."""
        with bounded(self._seconds, f"waiting for {what} (the client has seen {len(self.events)} events)"):
            seen = 0
            while True:
                for event in self.events[seen:]:
                    if found(event):
                        return event
                seen = len(self.events)
                if self.over.is_set():
                    raise self.failure or AssertionError(f"the events ended before {what}")
                await self._changed.wait()

    async def seq(self, seq: int) -> None:
        await self.until(lambda event: event.get("seq") == seq, f"event {seq}")

    async def of_type(self, kind: str) -> Mapping[str, Any]:
        return await self.until(lambda event: event["type"] == kind, f"an event of the type {kind}")

    async def content(self, content: str) -> None:
        await self.until(lambda event: event.get("content") == content, f"the text {content!r}")

    async def end(self, what: str) -> None:
        with bounded(self._seconds, f"the end of the events after {what}"):
            await self.over.wait()
        if self.failure is not None:
            raise AssertionError(f"the events did not end in order after {what}: {self.failure!r}") from self.failure

    async def leave(self) -> None:
        self._reading.cancel()
        with bounded(self._seconds, "the client's leaving"):
            await self.over.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


@dataclass(slots=True)
class _Server:
    """A transport that serves, at ``address``."""

    engine: Engine
    address: str
    scope: anyio.CancelScope
    stopped: anyio.Event
    seconds: float

    async def stop(self) -> None:
        self.scope.cancel()
        with bounded(self.seconds, "the end of serve() after its cancellation"):
            await self.stopped.wait()

    async def history(self, session_id: str = "s") -> list[Mapping[str, Any]]:
        """All events that are stored."""
        events: list[Mapping[str, Any]] = []
        more = True
        while more:
            page, more = await self.engine.history(KNOWN[ROOT], session_id, after=len(events), limit=1000)
            events += [json.loads(event.data) for event in page]
        return events

    async def rested(self, turn_id: str, session_id: str = "s") -> list[Mapping[str, Any]]:
        """All events that are stored once the turn is over and the session at rest."""
        with bounded(self.seconds, f"the end of the turn {turn_id}"):
            reader = await self.engine.reader(KNOWN[ROOT], session_id, turn_id=turn_id)
            while await reader.read():
                pass
            reader = await self.engine.reader(KNOWN[ROOT], session_id, after=reader.after)
            while (await self.engine.session(KNOWN[ROOT], session_id))["state"] != "idle":
                await reader.read()
        return await self.history(session_id)


class _CopyingStore(MemoryStore):
    """As stores are that read from a disk: who holds back what was read needs memory for it."""

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        events = await super().read(session_id, after, limit, max_bytes)
        return [replace(event, data=bytes(bytearray(event.data))) for event in events]


class _HoldingEngine:
    """An engine of which one call returns only once ``released`` is set: the last of the next ``left`` ones."""

    left = 0

    def __init__(self, engine: Engine) -> None:
        self.reached = anyio.Event()
        self.released = anyio.Event()
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if not iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await found(*args, **kwargs)
            self.left -= 1
            if self.left == 0:
                self.reached.set()
                await self.released.wait()
            return result

        return call


class TransportConformance:
    """Subclass it; say in `create` how the transport is made, and in `connect` how a client of it is.

    Needs pytest, and anyio's plugin for it, which comes with anyio. The transport runs before a real engine.
    """

    pytestmark = pytest.mark.anyio

    seconds = 10.0
    """How long anything may take, also a stop."""

    write_timeout = 0.5
    """The setting, in the test of a client that reads nothing."""

    memory_bytes = 8 * 1024 * 1024
    """What may be kept in memory for one client that reads nothing."""

    def create(self, context: Context) -> Transport:
        """A new transport, made as its factory in the hook ``portico_transports`` makes it."""
        raise NotImplementedError

    def connect(self, address: str, secret: str | None) -> AbstractAsyncContextManager[TransportClient]:
        """A client of who has ``secret`` (None: shows nothing). At its end connections are cut, without a good-bye."""
        raise NotImplementedError

    def cannot(self) -> Mapping[str, str]:
        """What the wire has no way for, by the name of the method of `TransportClient`, and why: ``create``,
        ``interrupt``, ``answer``. What needs it is skipped for this reason. To query and to tell events is a must."""
        return {}

    def settings(self, folder: Path, port: int) -> Mapping[str, Any]:
        """Settings of Portico's. ``folder`` is there for the transport; ``port`` is free, or 0 for any."""
        return {"port": port}

    def plugin_settings(self, folder: Path, port: int) -> Mapping[str, Any]:
        """The settings that the plugin has brought with it, by prefix, as `Context.plugin_settings` has them."""
        return {}

    def bad_input(self) -> Sequence[bytes]:
        """What no client should send. Each is sent over a connection of its own: whole, and cut in the middle."""
        return GARBAGE

    async def dial(self, address: str) -> ByteStream:
        """A bare connection. As it is here for ``SCHEME://HOST:PORT`` and for ``unix:PATH``, ``SCHEME+unix:PATH``."""
        scheme, _, rest = address.partition(":")
        if scheme.endswith("unix"):
            # `anyio.connect_unix` gives a stream that stumbles where data comes while a receive() is cancelled.
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(connection, rest)
                return await SocketStream.from_socket(connection)
            except BaseException:
                connection.close()
                raise
        parts = urlsplit(address)
        return await anyio.connect_tcp(parts.hostname or "", parts.port or 0)

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

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
            _compare(watch.events, stored, "a client that watched from the start")

    async def test_events_come_as_they_happen(self, tmp_path: Path) -> None:
        """A client is told of what has happened while the turn still runs."""
        gate = Gate()
        async with (
            self._serving(tmp_path, turn(_delta("early"), gate, _delta("late"))) as server,
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
                _compare(watch.events, stored[session], f"one of several who watched the session {session!r}")

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
            assert code == "session_exists", f"the name of a session that exists: {_said(code, 'session_exists')}"

    async def test_two_transports_serve_one_engine(self, tmp_path: Path) -> None:
        """What is asked over one transport is seen over another, and one that stops leaves the other serving."""
        (other_folder := tmp_path / "other").mkdir()
        async with self._serving(tmp_path) as one, self._served(one.engine, other_folder) as other:
            async with self._watching(one) as here, self._watching(other) as there:
                await self._query(one, "hello")
                stored = await one.rested("t")
                for watch in (here, there):
                    await watch.seq(len(stored))
                    _compare(watch.events, stored, "a client of one of two transports")
            await one.stop()
            await self._query(other, "hello", "t2")
            await other.rested("t2")

    # What is told.

    async def test_events_arrive_unchanged(self, tmp_path: Path) -> None:
        """Line breaks, NUL, emoji, halves of surrogate pairs and a MiB of text arrive as they are stored."""
        async with self._serving(tmp_path, turn(*map(_delta, [*STRANGE, HUGE]))) as server:
            async with self._watching(server) as live:
                await self._query(server)
                stored = await server.rested("t")
                await live.seq(len(stored))
            async with self._watching(server) as later:
                await later.seq(len(stored))
            told = [event["content"] for event in stored if event["type"] == "delta"]
            assert told == [*STRANGE, HUGE], "the engine has changed them"
            for watch in (live, later):
                _compare(watch.events, stored, "a client that was told strange texts")

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
                _compare(watch.events, stored[after:], f"a client that came back with after={after}")

    async def test_cut_in_mid_turn_nothing_is_missing(self, tmp_path: Path) -> None:
        """A client that is cut after each event of a running turn, and comes back with after=N, sees each once."""
        gates = [Gate() for _ in range(5)]
        steps = [step for number, gate in enumerate(gates) for step in (_delta(str(number)), gate)]
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
            _compare(seen, stored, "a client that was cut again and again")

    async def test_it_goes_on_after_a_restart(self, tmp_path: Path) -> None:
        """When the transport is stopped and another one is started there, clients come back with after=N."""
        port = _free_port()
        async with self._serving(tmp_path, port=port) as server:
            await self._query(server, "one two three")
            stored = await server.rested("t")
            async with self._watching(server) as before:
                await before.seq(4)
                await server.stop()
                await before.end("a stop")
            seen = len(before.events)
            _compare(before.events, stored[:seen], "a client of the first transport")
            async with self._served(server.engine, tmp_path, port) as again:
                await self._query(again, "four", "t2")
                stored = await again.rested("t2")
                async with self._watching(again, after=seen) as after:
                    await after.seq(len(stored))
                _compare(after.events, stored[seen:], "a client that came back to another transport")

    # Clients that go, or do nothing.

    async def test_a_turn_goes_on_when_its_client_leaves(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A client that is gone without a word leaves its turn running to its end."""
        gate = Gate()
        async with self._serving(tmp_path, turn(_delta("early"), gate, _delta("late"))) as server:
            before = _possessions()
            async with self._client(server) as client:
                await client.query("s", "go", "t")
                async with self._watching(server) as watch:
                    await watch.content("early")
            await _settled(self.seconds, {**before, "tasks": 1000})  # until the server knows that they are gone
            await self._reached(gate)
            gate.open()
            stored = await server.rested("t")
            assert stored[-2]["type"] == "complete", f"the turn ended with {stored[-2]}"
            assert stored[-2]["stop_reason"] == "end_turn", f"its client left, and the turn was {stored[-2]}"
        _check_log(caplog)

    async def test_a_client_that_reads_nothing_delays_nobody(self, tmp_path: Path) -> None:
        """While one client takes nothing of what it is sent, others are served."""
        async with self._flooded(tmp_path) as server, self._stalled(server):
            await anyio.sleep(STEP)  # the flood comes to a halt
            async with self._watching(server, "other") as watch:
                await self._query(server, "hello", session_id="other")
                await watch.of_type("complete")
            async with self._watching(server, after=250) as watch:  # and those of the same session too
                await watch.of_type("complete")

    async def test_a_client_that_reads_nothing_is_cut_off(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Who takes nothing for `write_timeout` seconds is cut off; until then it got whole events without a hole."""
        async with self._flooded(tmp_path, write_timeout=self.write_timeout) as server:
            stored = len(await server.history())
            async with self._stalled(server) as (events, seen):
                # The server's end is closed, which is seen from here only where it is in this process.
                await _fewer_descriptors(psutil.Process().num_fds(), 2 * self.write_timeout + 1)
                with bounded(self.seconds, "reading what was left"), suppress(Exception):
                    async for event in events:
                        seen.append(event["seq"])
            assert seen == [*range(1, len(seen) + 1)], "what it got until then has holes"
            assert len(seen) < stored, f"it took nothing for {2 * self.write_timeout + 1:g} s, and was not cut off"
        _check_log(caplog)

    async def test_a_client_that_reads_nothing_costs_little_memory(self, tmp_path: Path) -> None:
        """What is kept for a client that takes nothing is bounded, however much there is to send to it."""
        async with self._flooded(tmp_path, store=_CopyingStore()) as server:
            gc.collect()
            tracemalloc.start()
            try:
                async with self._stalled(server):
                    peaks = [0]
                    while len(peaks) < 5 or peaks[-1] != peaks[-5]:  # until nothing more is done for it
                        await anyio.sleep(2 * STEP)
                        peaks.append(tracemalloc.get_traced_memory()[1] // 65536)
            finally:
                tracemalloc.stop()
        kept = peaks[-1] * 65536
        assert kept <= self.memory_bytes, f"for one client that reads nothing {kept >> 20} MiB were needed"

    async def test_nothing_is_left_of_clients_that_have_gone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of clients that have come and gone no open descriptor is left, and no task."""
        async with self._serving(tmp_path) as server:
            await self._come_and_go(server)  # what is made once only is made now
            await _settled(self.seconds)
            before = _possessions()
            for _ in range(3):
                await self._come_and_go(server)
            await _settled(self.seconds, before)
            kept = {what: count for what, count in _possessions().items() if count > before[what]}
            assert not kept, f"of clients that have gone there are left {kept}, where there were {before}"
        _check_log(caplog)

    async def test_bad_input_harms_nobody(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever comes over a connection, others are served meanwhile and afterwards, and nothing crashes."""
        async with self._serving(tmp_path) as server, self._watching(server) as watch:
            async with anyio.create_task_group() as tasks:
                for data in self.bad_input():
                    for sent in (data, data[: len(data) // 2 + 1]):
                        for reset in (False, True):
                            tasks.start_soon(partial(self._misuse, server, sent, reset=reset))
                await self._query(server, "meanwhile", "t1")
            async with self._client(server) as client:
                await client.query("s", "afterwards", "t2")
            stored = await server.rested("t2")
            await watch.seq(len(stored))
            _compare(watch.events, stored, "a client beside others that sent garbage")
            queries = [event["content"] for event in stored if event["type"] == "query"]
            assert queries == ["meanwhile", "afterwards"], f"garbage was taken for a query: {queries}"
        _check_log(caplog)

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
            assert code == "not_running", f"an interrupt without a turn: {_said(code, 'not_running')}"

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
                assert code == "already_resolved", f"a second answer: {_said(code, 'already_resolved')}"
            gate.open()
            await server.rested("t")

    # What is refused.

    async def test_an_unknown_session_is_refused(self, tmp_path: Path) -> None:
        """Whatever is asked of a session that there is not is refused with session_not_found."""
        async with self._serving(tmp_path) as server:
            for name, operation in self._operations("unknown").items():
                code = await self._refusal(server, ALICE, operation)
                assert code == "session_not_found", f"{name}, of an unknown session: {_said(code, 'session_not_found')}"

    async def test_strangers_are_refused(self, tmp_path: Path) -> None:
        """Who shows no credentials, or wrong ones, is refused with unauthenticated, and nothing is done for it."""
        async with self._asking(tmp_path) as server:
            before = await server.history()
            operations = {**self._operations("s"), **self._operations("unknown", " (unknown session)")}
            if "create" not in self.cannot():
                operations["create"] = lambda client: client.create("new")
            for what, secret in {"no credentials": None, "wrong ones": "nobody's", "others": ALICE + "x"}.items():
                for name, operation in operations.items():
                    code = await self._refusal(server, secret, operation)
                    assert code == "unauthenticated", f"{name}, with {what}: {_said(code, 'unauthenticated')}"
            assert await server.history() == before, "a stranger was refused, and yet something has happened"

    async def test_what_is_somebody_elses_is_unknown(self, tmp_path: Path) -> None:
        """Whatever is asked of somebody else's session is refused as for one that there is not, and not done."""
        async with self._asking(tmp_path) as server:
            before = await server.history()
            for name, operation in self._operations("s").items():
                code = await self._refusal(server, BOB, operation)
                assert code == "session_not_found", (
                    f"{name}, of somebody else's session: {_said(code, 'session_not_found')}"
                )
            assert await server.history() == before, "somebody else was refused, and yet something has happened"

    async def test_a_client_stays_with_the_session_that_it_began_with(self, tmp_path: Path) -> None:
        """A client that begins with one session is told nothing of a later one of the same id.

        It is an admin, who may use both; and the id becomes the later one's between two calls of the engine.
        """
        for nth in range(1, 6):
            async with scripted_engine(tmp_path / f"engine{nth}") as engine:
                held = _HoldingEngine(engine)
                folder = tmp_path / str(nth)
                folder.mkdir()
                async with self._served(cast(Engine, held), folder) as server, background() as tasks:
                    await engine.create(KNOWN[ALICE], NewSession(session_id="s"))
                    await engine.close(KNOWN[ALICE], "s")
                    held.left = nth
                    watch = _Watch(self.seconds)
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
        """What the engine refuses is refused with the engine's code, and not as a fault of the server."""
        async with self._asking(tmp_path, max_queued_turns=0) as server:

            async def ahead(client: TransportClient) -> None:
                async for _ in client.events("s", 1000):
                    return

            code = await self._refusal(server, ALICE, ahead)
            assert code == "after_too_large", f"events from behind the end: {_said(code, 'after_too_large')}"
            code = await self._refusal(server, ALICE, lambda client: client.query("s", "more", "t2"))
            assert code == "queue_full", f"a query too many: {_said(code, 'queue_full')}"

    # The end.

    async def test_the_events_end_with_the_session(self, tmp_path: Path) -> None:
        """The events of a session end when it is closed, after the last one."""
        async with self._serving(tmp_path) as server:
            async with self._watching(server) as watch:
                await self._query(server, "hello")
                await server.rested("t")
                await server.engine.close(KNOWN[ALICE], "s")
                await watch.end("a session was closed")
            stored = await server.history()
            _compare(watch.events, stored, "a client that watched until the end")
            async with self._watching(server) as watch:
                await watch.end("a closed session was asked for")
            _compare(watch.events, stored, "a client that asked for a closed session")

    async def test_while_it_drains_reads_are_served(self, tmp_path: Path) -> None:
        """While the engine drains, new work is refused with draining and reads are served; then all streams end."""
        gate = Gate()
        async with self._serving(tmp_path, turn(_delta("early"), gate, _delta("late"))) as server:
            await self._query(server)
            await self._reached(gate)
            async with self._watching(server) as old, background() as tasks:
                await old.content("early")
                tasks.start_soon(server.engine.drain, self.seconds)
                while not server.engine.draining:
                    await anyio.lowlevel.checkpoint()
                code = await self._refusal(server, ALICE, lambda client: client.query("s", "more", "t2"))
                assert code == "draining", f"a query while the engine drains: {_said(code, 'draining')}"
                async with self._watching(server) as late:
                    await late.content("early")
                    gate.open()
                    for watch in (old, late):
                        await watch.end("a drain")
            stored = await server.rested("t")
            for watch in (old, late):
                _compare(watch.events, stored, "a client that watched a drain")
            await server.stop()

    async def test_a_stop_takes_seconds_whoever_is_there(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """When it is cancelled, serve() ends within seconds, whoever is connected, and leaves nothing open."""
        async with self._flooded(tmp_path) as server, AsyncExitStack() as watching, AsyncExitStack() as stalling:
            serving = _possessions()
            for size in (0, 100, 100_000):
                stream = await stalling.enter_async_context(await self.dial(server.address))
                with suppress(anyio.BrokenResourceError):
                    await stream.send(max(self.bad_input(), key=len)[:size])
            idle = await watching.enter_async_context(self._watching(server, "other"))
            await idle.seq(1)
            await stalling.enter_async_context(self._stalled(server))
            await anyio.sleep(STEP)
            await server.stop()
            await idle.end("a stop")
            _compare(idle.events, await server.history("other"), "a client that had seen all before a stop")
            with pytest.raises((OSError, anyio.EndOfStream, anyio.BrokenResourceError)), bounded(1, "a refusal"):
                async with await self.dial(server.address) as late:
                    await late.receive()
            await stalling.aclose()
            await _settled(self.seconds, serving)
            kept = {what: count for what, count in _possessions().items() if count > serving[what]}
            assert not kept, f"after a stop there are left {kept}, where there were {serving}"
            assert serving["descriptors"] > _possessions()["descriptors"], "after a stop the address is still open"
        _check_log(caplog)

    async def test_what_is_on_its_way_at_a_stop_arrives_whole(self, tmp_path: Path) -> None:
        """A stop comes between events: a client that reads has got whole ones, and all that a drain has ended."""
        async with self._serving(tmp_path) as server, self._watching(server) as watch:
            await self._query(server, json.dumps({"deltas": None, "size": 100_000, "gap": 0.001}))
            await watch.seq(5)
            await server.engine.drain(0)
            await server.stop()
            await watch.end("a stop")
            stored = await server.history()
            _compare(watch.events, stored, "a client that read until the stop")

    async def test_an_address_that_is_taken(self, tmp_path: Path) -> None:
        """Where somebody serves already, the start fails with TransportFailed and a sentence, and the other goes on."""
        port = _free_port()
        async with self._serving(tmp_path, port=port) as server:
            second = self.create(self._context(tmp_path, port))
            with bounded(self.seconds, "a start where somebody serves already"):
                try:
                    async with background() as tasks:
                        address = await tasks.start(_serve, second, server.engine)
                except TransportFailed as failure:
                    assert " " in failure.detail.strip(), f"the reason is {failure.detail!r}, and no sentence"
                else:
                    assert address != server.address, "two serve at one address"
                    pytest.skip("each start takes another address")
            await self._query(server, "hello")
            await server.rested("t")

    async def test_cancelled_while_it_starts_nothing_is_left(self, tmp_path: Path) -> None:
        """A start that is cancelled, at whatever moment, leaves nothing open, and the next one succeeds."""
        port = _free_port()
        async with scripted_engine(tmp_path / "engine") as engine:
            await self._cancel_start(engine, tmp_path, port, 1)
            await _settled(self.seconds)
            before = _possessions()
            for step in range(1, 50):
                with bounded(self.seconds, f"the end of a start that was cancelled as it waited for the {step}. time"):
                    if await self._cancel_start(engine, tmp_path, port, step):
                        break
            await _settled(self.seconds, before)
            kept = {what: count for what, count in _possessions().items() if count > before[what]}
            assert not kept, f"of starts that were cancelled there are left {kept}, where there were {before}"
            async with self._served(engine, tmp_path, port):
                pass

    # Behind the tests.

    def _context(self, folder: Path, port: int, **settings: Any) -> Context:
        settings = {"data_dir": folder, **settings, **self.settings(folder, port)}
        return Context(
            Settings(**settings),
            folder,
            plugin_settings=self.plugin_settings(folder, port),
            callers=Callers([TokenAuthenticator(KNOWN.items())]),
        )

    @asynccontextmanager
    async def _served(self, engine: Engine, folder: Path, port: int = 0, **settings: Any) -> AsyncIterator[_Server]:
        transport = self.create(self._context(folder, port, **settings))
        scope, stopped = anyio.CancelScope(), anyio.Event()

        async def serve(*, task_status: TaskStatus[str]) -> None:
            try:
                with scope:
                    await transport.serve(engine, task_status=task_status)
                assert scope.cancel_called, "serve() has ended by itself"
            finally:
                stopped.set()

        async with background() as tasks:
            with bounded(self.seconds, "the start of the transport"):
                address = await tasks.start(serve)
            server = _Server(engine, address, scope, stopped, self.seconds)
            yield server
            await server.stop()

    @asynccontextmanager
    async def _serving(
        self,
        folder: Path,
        *turns: Sequence[Step],
        store: EventStore | None = None,
        port: int = 0,
        write_timeout: float = 30.0,
        **limits: Any,
    ) -> AsyncIterator[_Server]:
        """An engine with alice's session ``s``, and the transport before it. Agents do ``turns``, or are echoes."""
        driver = ScriptedDriver(turns) if turns else None
        async with (
            scripted_engine(folder / "engine", driver=driver, store=store, **limits) as engine,
            self._served(engine, folder, port, write_timeout=write_timeout) as server,
        ):
            await engine.create(KNOWN[ALICE], NewSession(session_id="s"))
            yield server

    @asynccontextmanager
    async def _flooded(self, folder: Path, **options: Any) -> AsyncIterator[_Server]:
        """A session with more events than a connection holds, and an empty one, ``other``."""
        async with self._serving(folder, **options) as server:
            await server.engine.create(KNOWN[ALICE], NewSession(session_id="other"))
            await self._query(server, FLOOD)
            await server.rested("t")
            yield server

    @asynccontextmanager
    async def _asking(self, folder: Path, **limits: Any) -> AsyncIterator[_Server]:
        """A session whose turn waits for a permission, ``r``."""
        async with self._serving(folder, turn(Ask("Write", request_id="r"), Gate()), turn(), **limits) as server:
            await self._query(server)
            reader = await server.engine.reader(KNOWN[ROOT], "s")
            with bounded(self.seconds, "a permission request"):
                while not await server.engine.pending(KNOWN[ROOT], "s"):
                    await reader.read()
            yield server

    def _client(self, server: _Server, secret: str = ALICE) -> AbstractAsyncContextManager[TransportClient]:
        return self.connect(server.address, secret)

    @asynccontextmanager
    async def _watching(self, server: _Server, session_id: str = "s", after: int = 0) -> AsyncIterator[_Watch]:
        """A client that reads events beside the block, and is cut off at its end."""
        watch = _Watch(self.seconds)
        async with background() as tasks:
            tasks.start_soon(watch.run, self._client(server), session_id, after)
            yield watch
            await watch.leave()

    @asynccontextmanager
    async def _stalled(self, server: _Server) -> AsyncIterator[tuple[AsyncIterator[Mapping[str, Any]], list[int]]]:
        """A client that has read one event, and then reads no more; its events, and the numbers of those it has."""
        async with self._client(server) as client:
            events = client.events("s", 0)
            with bounded(self.seconds, "the first event"):
                first = await anext(events, None)
            assert first is not None, "the events ended before the first one"
            try:
                yield events, [first["seq"]]
            finally:
                if (aclose := getattr(events, "aclose", None)) is not None:
                    with suppress(Exception):
                        await aclose()

    async def _query(self, server: _Server, content: Any = "go", turn_id: str = "t", session_id: str = "s") -> None:
        with bounded(self.seconds, "a query"):
            async with self._client(server) as client:
                await client.query(session_id, content, turn_id)

    async def _reached(self, gate: Gate) -> None:
        with bounded(self.seconds, "the turn"):
            await gate.reached.wait()

    async def _come_and_go(self, server: _Server) -> None:
        """Clients of all kinds: one that watches, one that asks, one that is refused, one that says nothing."""
        async with self._watching(server, after=0) as watch:
            await watch.seq(1)
        await self._query(server, "hello")
        await self._refusal(server, "nobody's", self._operations("s")["events"])
        await self._refusal(server, ALICE, self._operations("unknown")["query"])
        await (await self.dial(server.address)).aclose()

    async def _misuse(self, server: _Server, data: bytes, *, reset: bool) -> None:
        """Send that, and hang up, or have the connection reset as if the client's machine had lost it."""
        stream = await self.dial(server.address)
        async with stream:
            connection = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - it is no Django
            if reset and connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # What the server makes of it is its own affair, also that it hangs up in the middle.
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, OSError), anyio.move_on_after(0.2):
                await stream.send(data)
                await stream.receive()
                while not reset:
                    await stream.receive()

    def _operations(self, session_id: str, suffix: str = "") -> dict[str, Callable[[TransportClient], Awaitable[None]]]:
        """All that can be asked of a session."""

        async def events(client: TransportClient) -> None:
            async for _ in client.events(session_id, 0):
                return

        operations: dict[str, Callable[[TransportClient], Awaitable[None]]] = {
            "events": events,
            "query": lambda client: client.query(session_id, "hello", "mine"),
            "answer": lambda client: client.answer(session_id, "r", "allow"),
            "interrupt": lambda client: client.interrupt(session_id),
        }
        return {name + suffix: operation for name, operation in operations.items() if name not in self.cannot()}

    async def _refusal(
        self, server: _Server, secret: str | None, operation: Callable[[TransportClient], Awaitable[None]]
    ) -> str | None:
        """With what code it is refused; None: it is not."""
        with bounded(self.seconds, "an answer"):
            try:
                async with self.connect(server.address, secret) as client:
                    await operation(client)
            except Refused as refusal:
                return refusal.code
        return None

    async def _cancel_start(self, engine: Engine, folder: Path, port: int, step: int) -> bool:
        """Cancel the start as it waits for the ``step``-th time; whether it was over by then."""
        transport, status = self.create(self._context(folder, port)), _Status()
        with anyio.CancelScope() as scope:
            await _cancelled_at(step, transport.serve(engine, task_status=status), scope)
        return status.up

    def _needs(self, name: str) -> None:
        if (reason := self.cannot().get(name)) is not None:
            pytest.skip(reason)


async def _serve(transport: Transport, engine: Engine, *, task_status: TaskStatus[str]) -> None:
    await transport.serve(engine, task_status=task_status)


class _Status:
    up = False

    def started(self, value: object = None) -> None:
        self.up = True


@coroutine
def _cancelled_at(step: int, started: Coroutine[Any, Any, None], scope: anyio.CancelScope) -> Iterator[Any]:
    """Does what the coroutine does, and cancels ``scope`` as it waits for the ``step``-th time."""
    go_on: Callable[[Any], Any] = started.send
    given: Any = None
    while True:
        try:
            waited_for = go_on(given)
        except StopIteration:
            return
        step -= 1
        if step == 0:
            scope.cancel()
        try:
            go_on, given = started.send, (yield waited_for)
        except BaseException as thrown:
            go_on, given = started.throw, thrown


def _delta(content: str) -> Delta:
    return Delta(type="delta", content=content)


def _said(code: str | None, expected: str) -> str:
    return f"it is to be refused with {expected}, and was " + (f"refused with {code}" if code else "taken")


def _compare(seen: Sequence[Mapping[str, Any]], stored: Sequence[Mapping[str, Any]], who: str) -> None:
    """Fails the test where these are not the same events; says where they part."""
    for number, (one, other) in enumerate(zip(seen, stored, strict=False)):
        assert one == other, f"{who} got as event {number + 1} {str(one)[:300]} instead of {str(other)[:300]}"
    assert len(seen) == len(stored), f"{who} got {len(seen)} events instead of {len(stored)}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _possessions() -> dict[str, int]:
    return {"descriptors": psutil.Process().num_fds(), "tasks": len(asyncio.all_tasks())}


async def _settled(seconds: float, before: Mapping[str, int] | None = None) -> None:
    """Wait until there is not more than ``before`` (else: until nothing changes), but not for ever."""
    with anyio.move_on_after(seconds):
        last: dict[str, int] = {}
        while any(count > (before or last).get(what, 0) for what, count in _possessions().items()):
            last = _possessions()
            gc.collect()  # connections that are over may hang in cycles
            await anyio.sleep(STEP)


async def _fewer_descriptors(than: int, seconds: float) -> None:
    """Wait until this process has fewer descriptors, but not for ever."""
    with anyio.move_on_after(seconds):
        while psutil.Process().num_fds() >= than:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(STEP)


def _check_log(caplog: pytest.LogCaptureFixture) -> None:
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, f"the log has an error: {errors[0][:500]}"

"""Tests of the ends of sessions and of the server."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from portico.testing.background import background
from portico.testing.engine import scripted_engine
from portico.testing.following import bounded
from portico.testing.scripted import Gate, turn
from portico.testing.transport.observations import (
    check_log,
    compare,
    delta,
    free_port,
    possessions,
    refusal_text,
    settled,
)
from portico.testing.transport.stand_ins import serve_until_cancelled
from portico.testing.transport.transport_client import ALICE, KNOWN, STEP
from portico.testing.transport.transport_harness import TransportHarness
from portico.transports.base import TransportFailed


class StoppingTests(TransportHarness):
    """Tests of the ends of sessions and of the server."""

    async def test_the_events_end_with_the_session(self, tmp_path: Path) -> None:
        """The events of a session end when it is closed, after the last one."""
        async with self._serving(tmp_path) as server:
            async with self._watching(server) as watch:
                await self._query(server, "hello")
                await server.rested("t")
                await server.engine.close(KNOWN[ALICE], "s")
                await watch.end("a session was closed")
            stored = await server.history()
            compare(watch.events, stored, "a client that watched until the end")
            async with self._watching(server) as watch:
                await watch.end("a closed session was asked for")
            compare(watch.events, stored, "a client that asked for a closed session")

    async def test_while_it_drains_reads_are_served(self, tmp_path: Path) -> None:
        """While the engine drains, new work is refused with draining and reads are served; then all streams end."""
        gate = Gate()
        async with self._serving(tmp_path, turn(delta("early"), gate, delta("late"))) as server:
            await self._query(server)
            await self._reached(gate)
            async with self._watching(server) as old, background() as tasks:
                await old.content("early")
                tasks.start_soon(server.engine.drain, self.seconds)
                while not server.engine.draining:
                    await anyio.lowlevel.checkpoint()
                code = await self._refusal(server, ALICE, lambda client: client.query("s", "more", "t2"))
                assert code == "draining", f"a query while the engine drains: {refusal_text(code, 'draining')}"
                async with self._watching(server) as late:
                    await late.content("early")
                    gate.open()
                    for watch in (old, late):
                        await watch.end("a drain")
            stored = await server.rested("t")
            for watch in (old, late):
                compare(watch.events, stored, "a client that watched a drain")
            await server.stop()

    async def test_a_stop_takes_seconds_whoever_is_there(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A cancelled serve() ends within seconds, whoever is connected, and leaves nothing open."""
        async with self._flooded(tmp_path) as server, AsyncExitStack() as watching, AsyncExitStack() as stalling:
            serving = possessions()
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
            compare(idle.events, await server.history("other"), "a client that had seen all before a stop")
            with pytest.raises((OSError, anyio.EndOfStream, anyio.BrokenResourceError)), bounded(1, "a refusal"):
                async with await self.dial(server.address) as late:
                    await late.receive()
            await stalling.aclose()
            await settled(self.seconds, serving)
            kept = {what: count for what, count in possessions().items() if count > serving[what]}
            assert not kept, f"after a stop there are left {kept}, where there were {serving}"
            assert serving["descriptors"] > possessions()["descriptors"], "after a stop the address is still open"
        check_log(caplog)

    async def test_what_is_on_its_way_at_a_stop_arrives_whole(self, tmp_path: Path) -> None:
        """A stop comes between events: a client that reads has got whole ones, and all that a drain has ended."""
        async with self._serving(tmp_path) as server, self._watching(server) as watch:
            await self._query(server, json.dumps({"deltas": None, "size": 100_000, "gap": 0.001}))
            await watch.seq(5)
            await server.engine.drain(0)
            await server.stop()
            await watch.end("a stop")
            stored = await server.history()
            compare(watch.events, stored, "a client that read until the stop")

    async def test_an_address_that_is_taken(self, tmp_path: Path) -> None:
        """A start on a taken address fails with TransportFailed and a sentence, and the other server goes on."""
        port = free_port()
        async with self._serving(tmp_path, port=port) as server:
            second = self.create(self._context(tmp_path, port))
            with bounded(self.seconds, "a start where somebody serves already"):
                try:
                    async with background() as tasks:
                        address = await tasks.start(serve_until_cancelled, second, server.engine)
                except TransportFailed as failure:
                    assert " " in failure.detail.strip(), f"the reason is {failure.detail!r}, and no sentence"
                else:
                    assert address != server.address, "two serve at one address"
                    pytest.skip("each start takes another address")
            await self._query(server, "hello")
            await server.rested("t")

    async def test_cancelled_while_it_starts_nothing_is_left(self, tmp_path: Path) -> None:
        """A start that is cancelled, at whatever moment, leaves nothing open, and the next one succeeds."""
        port = free_port()
        async with scripted_engine(tmp_path / "engine") as engine:
            await self._cancel_start(engine, tmp_path, port, 1)
            await settled(self.seconds)
            before = possessions()
            for step in range(1, 50):
                with bounded(self.seconds, f"the end of a start that was cancelled as it waited for the {step}. time"):
                    if await self._cancel_start(engine, tmp_path, port, step):
                        break
            await settled(self.seconds, before)
            kept = {what: count for what, count in possessions().items() if count > before[what]}
            assert not kept, f"of starts that were cancelled there are left {kept}, where there were {before}"
            async with self._served(engine, tmp_path, port):
                pass

"""Tests of clients that leave, read nothing, or send what makes no sense."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest

from portico.testing.following import bounded
from portico.testing.scripted import Gate, turn
from portico.testing.transport.observations import check_log, compare, delta, fewer_descriptors, possessions, settled
from portico.testing.transport.stand_ins import CopyingStore
from portico.testing.transport.transport_client import STEP
from portico.testing.transport.transport_harness import TransportHarness


class AbsenceTests(TransportHarness):
    """Tests of clients that leave, read nothing, or send what makes no sense."""

    async def test_a_turn_goes_on_when_its_client_leaves(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A client that is gone without a word leaves its turn running to its end."""
        gate = Gate()
        async with self._serving(tmp_path, turn(delta("early"), gate, delta("late"))) as server:
            before = possessions()
            async with self._client(server) as client:
                await client.query("s", "go", "t")
                async with self._watching(server) as watch:
                    await watch.content("early")
            await settled(self.seconds, {**before, "tasks": 1000})  # until the server knows that they are gone
            await self._reached(gate)
            gate.open()
            stored = await server.rested("t")
            assert stored[-2]["type"] == "complete", f"the turn ended with {stored[-2]}"
            assert stored[-2]["stop_reason"] == "end_turn", f"its client left, and the turn was {stored[-2]}"
        check_log(caplog)

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
        """A client that takes nothing for `write_timeout` seconds is cut off; its events until then have no gap."""
        async with self._flooded(tmp_path, write_timeout=self.write_timeout) as server:
            stored = len(await server.history())
            async with self._stalled(server) as (events, seen):
                # The server's end is closed, which is seen from here only where it is in this process.
                await fewer_descriptors(psutil.Process().num_fds(), 2 * self.write_timeout + 1)
                with bounded(self.seconds, "reading what was left"), suppress(Exception):
                    async for event in events:
                        seen.append(event["seq"])
            assert seen == [*range(1, len(seen) + 1)], "what it got until then has holes"
            assert len(seen) < stored, f"it took nothing for {2 * self.write_timeout + 1:g} s, and was not cut off"
        check_log(caplog)

    async def test_a_client_that_reads_nothing_costs_little_memory(self, tmp_path: Path) -> None:
        """The memory kept for a client that takes nothing is bounded, however much there is to send to it."""
        async with self._flooded(tmp_path, store=CopyingStore()) as server:
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
            await settled(self.seconds)
            before = possessions()
            for _ in range(3):
                await self._come_and_go(server)
            await settled(self.seconds, before)
            kept = {what: count for what, count in possessions().items() if count > before[what]}
            assert not kept, f"of clients that have gone there are left {kept}, where there were {before}"
        check_log(caplog)

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
            compare(watch.events, stored, "a client beside others that sent garbage")
            queries = [event["content"] for event in stored if event["type"] == "query"]
            assert queries == ["meanwhile", "afterwards"], f"garbage was taken for a query: {queries}"
        check_log(caplog)

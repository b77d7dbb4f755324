"""The trouble of one service is its own: the others are served, their connections go on, and it is tried again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from portico.transports.base import TransportFailed
from tests.support.ziti import Network, Shape, network
from tests.ziti.transport.supervised import Supervised, listener, supervised, works

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

both = pytest.mark.parametrize("shape", ["0.6", "1.x"])


@asynccontextmanager
async def undisturbed(net: Network, running: Supervised, service: str = "one") -> AsyncIterator[None]:
    """A connection that is open all the time, of one listener."""
    child = listener()
    with await net.dial(service) as stream:
        await running.until(lambda: running.open[service])
        yield
        await anyio.to_thread.run_sync(stream.sendall, b"still there")
        assert await anyio.to_thread.run_sync(stream.recv, 100)
    assert listener() == child and running.supervisor.status.failures == 0


@both
async def test_a_service_that_is_deleted_and_made_again(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net, "one", "two") as running:
        await running.bound()
        async with undisturbed(net, running):
            with await net.dial("two") as cut:
                net.delete("two")
                assert await anyio.to_thread.run_sync(cut.recv, 1) == b""
            trouble = running.supervisor.status.trouble
            await running.until(lambda: "the service two: the network has no such service" in (trouble() or ""))
            assert "the service one" not in (trouble() or "") and await works(net, "one")
            net.allow("server", bind=["two"])
            await running.bound()
            assert await works(net, "two")
        assert running.supervisor.status.refusals == {"two": running.supervisor.status.refusals["two"]}


@both
async def test_a_permission_that_is_withdrawn_without_a_word(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net, "one", "two", probed=True, probe=0.2) as running:
        await running.until(lambda: running.supervisor.status.reached == {"one": True, "two": True})
        async with undisturbed(net, running):
            net.forbid("server", "bind", service="two")
            trouble = running.supervisor.status.trouble
            await running.until(lambda: "the service two: " in (trouble() or "") and "Bind" in (trouble() or ""))
            net.allow("server", bind=["two"])
            await running.bound()
            assert await works(net, "two")


async def test_services_that_are_missing_or_not_permitted_from_the_start(tmp_path: Path) -> None:
    async with network(tmp_path, "0.6") as net:
        net.moods("two", bind=-34)
        net.moods("three", bind=-17)
        async with supervised(net, "one", "two", "three", patient=False) as running:
            with anyio.fail_after(10):
                await running.supervisor.settled.wait()
            trouble = running.supervisor.status.trouble() or ""
            assert "the service two: this identity may not Bind it" in trouble and "the service three: " in trouble
            async with undisturbed(net, running):
                net.moods("two", bind=None)
                net.moods("three", bind=None)
                await running.bound()
                assert await works(net, "two") and await works(net, "three")


async def test_a_service_whose_binding_hangs(tmp_path: Path) -> None:
    async with network(tmp_path, "0.6") as net:
        net.moods("one", bind="hang")
        async with supervised(net, "one", "two", bind=0.5) as running:
            await running.until(lambda: running.supervisor.status.bound)
            async with undisturbed(net, running, "two"):
                assert "the service one: binding it has hung" in (running.supervisor.status.trouble() or "")
                net.moods("one", bind=None)
                await running.bound()
                assert await works(net, "one")


@both
async def test_all_that_are_lost_at_once_are_bound_by_another_listener(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net, "one", "two", probed=True, probe=0.1) as running:
        await running.until(lambda: running.supervisor.status.reached == {"one": True, "two": True})
        for service in ("one", "two"):
            net.moods(service, accept="lost")
        assert "is lost" in await running.failure(0)
        for service in ("one", "two"):
            net.moods(service, accept=None)
        await running.bound()
        assert await works(net, "one") and await works(net, "two")


async def test_a_required_service_ends_the_start_only(tmp_path: Path) -> None:
    async with network(tmp_path, "0.6") as net, supervised(net, "one", "two", patient=False, required=True) as running:
        await running.bound()
        running.supervisor.patient = True
        async with undisturbed(net, running):
            net.delete("two")
            await running.until(lambda: "no such service" in (running.supervisor.status.trouble() or ""))
    async with network(tmp_path, "0.6") as net:
        net.moods("two", bind=-17)
        with pytest.raises(BaseExceptionGroup) as failure:
            async with supervised(net, "one", "two", patient=False, required=True):
                await anyio.sleep(20)
        assert failure.group_contains(TransportFailed, match="the service two: the network has no such service")

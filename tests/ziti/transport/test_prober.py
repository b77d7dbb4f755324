"""Probes find out what nobody else does, and whatever happens to one harms nobody."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.ziti.transport import prober
from tests.support.ziti import Shape, network
from tests.ziti.transport.supervised import listener, probes, recovers, supervised, works

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

both = pytest.mark.parametrize("shape", ["0.6", "1.x"])


TROUBLES: list[tuple[dict[str, Any], str, str]] = [
    ({"connect": "segfault"}, "crashed", "the probe of the service one has failed: Ziti's library crashed (SIGSEGV)"),
    ({"connect": "hang"}, "hung", "the probe of the service one has failed: a dial took more than"),
    ({"load": "segfault"}, "crashed", "the probe has failed: Ziti's library crashed (SIGSEGV)"),
    ({"load": -15}, "refused", "the probe has failed: the controller"),
]


@both
async def test_a_probe_that_fails_itself_harms_nobody(
    tmp_path: Path, shape: Shape, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(prober, "MARGIN", 0.5)
    async with network(tmp_path, shape) as net:
        async with supervised(net, "one", "two", probed=True, probe=0.1, dial=0.5) as running:
            status = running.supervisor.status
            await running.until(lambda: status.reached == {"one": True, "two": True})
            child = listener()
            with await net.dial("one") as stream:
                for mood, reason, words in TROUBLES:
                    caplog.clear()
                    net.moods("server", **mood)
                    enough = status.probe_failures[reason] + 4
                    await running.until(lambda: status.probe_failures[reason] >= enough)  # noqa: B023
                    assert words in caplog.text and caplog.text.count("has failed") <= 2, mood
                    net.moods("server", **dict.fromkeys(mood))
                    taken = len(running.taken)
                    await running.until(lambda: len(running.taken) > taken + 1)  # noqa: B023
                assert listener() == child and status.failures == 0 and status.trouble() is None
                assert status.reached == {"one": True, "two": True}
                await anyio.to_thread.run_sync(stream.sendall, b"still there")
                assert await anyio.to_thread.run_sync(stream.recv, 100)


async def test_a_probe_that_crashes_for_one_service_does_not_keep_others_from_being_probed(tmp_path: Path) -> None:
    async with network(tmp_path, "0.6") as net:
        net.moods("one", connect="segfault")
        async with supervised(net, "one", "two", probed=True, probe=0.1) as running:
            await running.until(lambda: running.supervisor.status.reached == {"two": True})


async def test_it_is_no_process_with_bindings_that_dials(tmp_path: Path) -> None:
    async with network(tmp_path, "0.6") as net:
        net.moods("server", beside="segfault")
        async with supervised(net, "one", "two", probed=True, probe=0.05) as running:
            seen: set[int] = set()

            def probed() -> bool:
                found = probes()
                assert len(found) <= 1
                seen.update(one.pid for one in found)
                return len(seen) >= 3 and len(running.taken) >= 4

            await running.until(probed)
            assert (
                running.supervisor.status.failures == 0 and sum(running.supervisor.status.probe_failures.values()) == 0
            )


@both
@pytest.mark.parametrize("loss", ["lost", pytest.param("hang", marks=pytest.mark.long)])
async def test_a_binding_that_is_lost_without_a_word(tmp_path: Path, shape: Shape, loss: str) -> None:
    async with network(tmp_path, shape) as net, supervised(net, probed=True, probe=0.2) as running:
        await running.until(lambda: running.taken)  # the first probe
        net.moods("portico", accept=loss, dial_wait=0.2)
        assert "the binding of the service portico is lost" in await running.failure()
        net.moods("portico", accept=None, dial_wait=None)
        await recovers(net, running)


@pytest.mark.long
@both
async def test_a_binding_that_never_was_is_found_out_soon(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net:
        net.moods("portico", accept="lost")
        async with supervised(net, probed=True, probe=600) as running:  # three probes, five seconds apart
            assert "the binding of the service portico is lost: " in await running.failure(0)
            net.moods("portico", accept=None)
            await recovers(net, running)


@both
async def test_probes_do_not_mind_connections_that_last(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net, probed=True, probe=0.05) as running:
        await running.until(lambda: running.taken)
        held = [await net.dial("portico") for _ in range(20)]
        count = len(running.taken)
        await running.until(lambda: len(running.taken) > count + 10)
        assert running.supervisor.status.failures == 0
        for one in held:
            one.close()


@both
async def test_a_service_that_may_not_be_dialled_is_not_probed(
    tmp_path: Path, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with network(tmp_path, shape) as net, supervised(net, probe=0.1) as running:
        await running.bound()
        await running.until(lambda: "is not probed" in caplog.text)
        await anyio.sleep(0.5)
        assert caplog.text.count("is not probed") == 1
        assert running.supervisor.status.failures == 0 and await works(net)

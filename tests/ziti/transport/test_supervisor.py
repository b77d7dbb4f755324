"""The listener is restarted whatever Ziti's library does, and everybody is told why."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sys
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.transports.base import TransportFailed
from portico.ziti.transport import listener_process, supervisor
from tests.support.ziti import STANDIN, Shape, network
from tests.ziti.transport.supervised import listener, recovers, supervised, works

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the transport is for Linux")]

both = pytest.mark.parametrize("shape", ["0.6", "1.x"])


@both
async def test_connections_come_with_service_and_caller(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net, "one", "two") as running:
        await running.bound()
        for count, (service, caller) in enumerate((("one", "alice"), ("two", ""), ("one", "a\n\x00" + "é" * 2000)), 1):
            (await net.dial(service, caller=caller)).close()
            await running.until(lambda count=count: len(running.taken) == count)  # type: ignore[misc]
        assert [(one.service, one.caller[:2]) for one in running.taken] == [("one", "al"), ("two", ""), ("one", "a\n")]
        assert running.states[-1] == "bound" and running.states[:2] == ["loading", "binding"]


@both
@pytest.mark.parametrize("step", ["load", "bind", "accept"])
async def test_a_crash(tmp_path: Path, shape: Shape, step: str) -> None:
    async with network(tmp_path, shape) as net:
        name = "server" if step == "load" else "portico"
        net.moods(name, **{step: "segfault"})
        async with supervised(net) as running:
            if step == "accept":
                await running.bound()
                assert not await works(net)
            assert "Ziti's library crashed (SIGSEGV)" in await running.failure(0)
            net.moods(name, **{step: None})
            await recovers(net, running)


@pytest.mark.parametrize(
    ("step", "words"),
    [("load", "loading the identity has hung"), ("bind", "binding the service portico has hung")],
)
async def test_a_hang(tmp_path: Path, step: str, words: str) -> None:
    limits: dict[str, Any] = {step: 0.2}
    async with network(tmp_path, "0.6") as net:
        name = "server" if step == "load" else "portico"
        net.moods(name, **{step: "hang"})
        async with supervised(net, **limits) as running:
            assert words in await running.failure()
            net.moods(name, **{step: None})
            await recovers(net, running)


async def test_a_server_without_descriptors_to_start_a_listener_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with network(tmp_path, "0.6") as net, supervised(net) as running:
        await running.bound()
        with monkeypatch.context() as full:
            full.setattr(socket, "socketpair", exhausted)
            listener().kill()
            assert "Too many open files" in await running.failure(1)
        await recovers(net, running)


@both
async def test_a_binding_that_is_lost_with_an_error(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net) as running:
        await running.bound()
        net.moods("portico", accept="einval")
        assert "the binding of the service portico is lost" in await running.failure()
        net.moods("portico", accept=None)
        await recovers(net, running)


@both
async def test_a_policy_that_is_withdrawn_and_given_back(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net, "portico") as running:
        await running.bound()
        net.forbid("server")
        net.allow("server", bind=["other"])
        assert "is lost" in await running.failure()
        status = running.supervisor.status
        await running.until(lambda: status.refused and status.state == "bound")
        assert "policy of the type Bind" in (running.supervisor.status.trouble() or "")
        net.allow("server", bind=["portico"])
        await recovers(net, running)
        assert running.supervisor.status.failures == 1  # it was bound without another restart


@both
async def test_a_listener_that_is_killed(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net) as running:
        await running.bound()
        listener().kill()
        assert await running.failure() == "it was killed (SIGKILL)"
        await recovers(net, running)


async def test_a_listener_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_process, "SILENCE_SECONDS", 1.5)
    async with network(tmp_path, "0.6") as net, supervised(net) as running:
        await running.bound()
        listener().send_signal(signal.SIGSTOP)
        assert "the listener has hung" in await running.failure()
        await recovers(net, running)


JUNK = """
import os, socket, sys, time
control = socket.socket(fileno=os.dup(int(sys.argv[1])))
thing = os.open("/dev/null", os.O_RDONLY)
listening = socket.create_server(("127.0.0.1", 0)).fileno()
told = b'{"type": "connection", "service": "portico", "caller": "x"}'
try:
    TELL
    time.sleep(60)
except OSError:
    pass
os._exit(7)
"""


@pytest.mark.parametrize(
    ("tell", "words"),
    [
        (r"control.send(b'\xff\x00garbage')", "sent an invalid message"),
        ("control.send(b'[' * 60_000)", "sent an invalid message"),
        ("control.send(b'[1, 2]')", "sent an invalid message"),
        ("control.send(b'{}')", "sent an invalid message"),
        ("control.send(b'{\"type\": [1]}')", "sent an invalid message"),
        ('control.send(b\'{"type": "nonsense"}\')', "sent an invalid message"),
        ('control.send(b\'{"type": "bound", "service": ["x"]}\')', "sent an invalid message"),
        ('control.send(b\'{"type": "failed", "step": {}, "kind": []}\')', "the listener has failed"),
        ("control.send(b'{\"x\": \"' + b'y' * 150_000)", "sent an invalid message"),
        ("socket.send_fds(control, [told], [thing])", "passed on something that is not a connection"),
        ("socket.send_fds(control, [told], [thing, thing, thing])", "passed on something that is not a connection"),
        ("socket.send_fds(control, [b'garbage'], [control.fileno()])", "sent an invalid message"),
        ("socket.send_fds(control, [told], [control.fileno()])", "sent an invalid message"),
        ("[socket.send_fds(control, [told], [listening]) for _ in range(50)]; os._exit(7)", "status 7"),
        ("[control.send(told) for _ in range(50)]; os._exit(7)", "status 7"),
        ("control.shutdown(socket.SHUT_RDWR)", "by itself|crashed"),
    ],
)
async def test_a_listener_that_says_what_none_says(tmp_path: Path, tell: str, words: str) -> None:
    (tmp_path / "openziti.py").write_text(JUNK.replace("TELL", tell))
    async with network(tmp_path, "0.6") as net:
        before = len(os.listdir("/proc/self/fd"))
        async with supervised(net, modules=tmp_path) as running:
            for failure in range(2):
                assert re.search(words, await running.failure(failure))
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_library_that_spins(tmp_path: Path) -> None:
    burning = tmp_path / "site"
    burning.mkdir()
    (burning / "openziti").symlink_to(STANDIN / "openziti")
    burn = "import threading\ndef burn():\n    while True: pass\nthreading.Thread(target=burn, daemon=True).start()\n"
    (burning / "sitecustomize.py").write_text(burn)
    async with network(tmp_path, "0.6") as net, supervised(net, modules=burning, spin=2.0) as running:
        assert "Ziti's library was spinning" in await running.failure()


@both
async def test_a_controller_that_is_away(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net:
        net.outage(controller="refuses")
        async with supervised(net, load=0.3, patient=False) as running:
            reason = await running.failure()
            assert ("controller can't be reached" if shape == "0.6" else "did not complete in time") in reason
            net.outage(controller="up")
            await recovers(net, running)


@both
async def test_a_router_that_is_away_for_a_while(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net, probed=True, probe=0.1) as running:
        await running.bound()
        net.outage(router="down")
        await net.bound("portico", 0)
        net.outage(router="up")
        await recovers(net, running)


async def test_tries_come_later_and_later(tmp_path: Path) -> None:
    async with network(tmp_path, "0.6") as net:
        net.moods("server", load=-15)
        async with supervised(net) as running:
            await running.until(lambda: len(running.delays) == 5)
            assert all(
                1.3 < later / earlier < 3 for earlier, later in zip(running.delays, running.delays[1:], strict=False)
            )


async def test_tries_come_later_and_later_also_without_an_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "WELL_SECONDS", 0.0)
    tried = count(1)

    def gone() -> None:
        raise TransportFailed(f"the identity is not there, seen {next(tried)} times")

    async with network(tmp_path, "0.6") as net, supervised(net) as running:
        await running.bound()
        running.supervisor._check = gone
        listener().kill()
        await running.until(lambda: len(running.delays) == 5)
        assert all(
            1.3 < later / earlier < 3 for earlier, later in zip(running.delays, running.delays[1:], strict=False)
        )


@pytest.mark.parametrize(
    ("moods", "words"),
    [
        ({"server": {"load": -13}}, "does not take the identity for one"),
        ({"server": {"load": -14}}, "the controller does not know the identity"),
        ({"portico": {"bind": -17}}, "the network has no such service"),
        ({"portico": {"bind": -34}}, "this identity may not Bind it"),
    ],
)
async def test_what_does_not_mend_ends_the_start(tmp_path: Path, moods: Any, words: str) -> None:
    async with network(tmp_path, "0.6") as net:
        for name, mood in moods.items():
            net.moods(name, **mood)
        with pytest.raises(BaseExceptionGroup) as failure:
            async with supervised(net, patient=False, required=True):
                await anyio.sleep(20)
        assert failure.group_contains(TransportFailed, match=words)


async def test_a_package_that_is_missing_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "openziti.py").write_text("raise ImportError(\"No module named 'openziti'\")")
    async with network(tmp_path, "0.6") as net:
        with pytest.raises(BaseExceptionGroup) as failure:
            async with supervised(net, patient=False, modules=tmp_path):
                await anyio.sleep(20)
        assert failure.group_contains(
            TransportFailed, match=r"No module named 'openziti'.*pip install 'portico-server\[ziti\]'"
        )


@both
async def test_no_descriptor_is_left_behind(tmp_path: Path, shape: Shape) -> None:
    async with network(tmp_path, shape) as net, supervised(net) as running:
        await running.bound()
        assert await works(net)
        ours, theirs = len(os.listdir("/proc/self/fd")), listener().num_fds()
        for _ in range(100):
            assert await works(net)  # which sees the server's end closed, too
        await running.until(lambda: listener().num_fds() <= theirs + 2)
        assert len(os.listdir("/proc/self/fd")) <= ours + 2


async def test_tcp_nodelay_is_set_on_the_connection_to_the_router(tmp_path: Path) -> None:
    async with network(tmp_path, "1.x") as net, supervised(net) as running:
        await running.bound()
        assert await works(net)
        (binding,) = await net.state()
        assert binding["nodelay"]


async def test_the_listener_gets_nothing_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    async with network(tmp_path, "0.6") as net, supervised(net) as running:
        await running.bound()
        found = listener().environ()
        assert set(found) <= {"PATH", "HOME", "PYTHONPATH", "LC_CTYPE", *net.environment()}

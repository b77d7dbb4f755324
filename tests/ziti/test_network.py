"""The real Ziti network that other tests are built upon: two programs meet there, and only while they may."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.limits import HANG_SECONDS
from tests.ziti.network import Network

PEER = [sys.executable, str(Path(__file__).with_name("peer.py"))]


@contextmanager
def echo(network: Network, identity: Path, service: str) -> Iterator[None]:
    """A server on that service, from when until the controller knows of it."""
    with subprocess.Popen([*PEER, "echo", identity, service], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "bound\n"
            eventually(lambda: network.terminators(service) == 1)
            yield
        finally:
            process.kill()
    eventually(lambda: network.terminators(service) == 0)


def ask(identity: Path, service: str, text: str) -> str:
    """The answer, or in words why there is none."""
    done = subprocess.run([*PEER, "ask", identity, service, text], capture_output=True, text=True, timeout=HANG_SECONDS)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_service_is_bound_and_dialled(network: Network) -> None:
    server, alice = network.identity("server", "servers"), network.identity("alice", "people")
    network.service("echo", "ours")
    network.policy("Bind", ["@echo"], ["@server"])
    network.policy("Dial", ["#ours"], ["#people"])
    with echo(network, server, "echo"):
        assert ask(alice, "echo", "hello") == "alice: hello"


def test_a_withdrawn_policy_lets_nobody_in(network: Network) -> None:
    server, alice, bob = (network.identity(name) for name in ("server", "alice", "bob"))
    network.service("echo")
    network.policy("Bind", ["@echo"], ["@server"])
    hers = network.policy("Dial", ["@echo"], ["@alice"])
    network.policy("Dial", ["@echo"], ["@bob"])
    network.service("another")
    network.policy("Dial", ["@another"], ["@alice"])  # 0.6.0 hangs with an identity that may do nothing at all
    with echo(network, server, "echo"):
        assert ask(alice, "echo", "hello") == "alice: hello"
        network.withdraw(hers)
        eventually(lambda: ask(alice, "echo", "hello") != "alice: hello")
        assert ask(bob, "echo", "hello") == "bob: hello"


def test_controller_and_router_are_stopped_and_started_apart(network: Network) -> None:
    server, alice = network.identity("server"), network.identity("alice")
    network.service("echo")
    network.policy("Bind", ["@echo"], ["@server"])
    network.policy("Dial", ["@echo"], ["@alice"])
    for daemon in (network.controller, network.router):
        before = daemon.pid
        daemon.stop()
        assert not psutil.pid_exists(before)
        daemon.start()
        network.ready()
        with echo(network, server, "echo"):
            assert ask(alice, "echo", "hello") == "alice: hello"


def test_identities_are_their_owners_and_only_loopback_is_listened_on(network: Network) -> None:
    assert stat.S_IMODE(network.identity("server").stat().st_mode) == 0o600
    for daemon in (network.controller, network.router):
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(daemon.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {"127.0.0.1"}


def test_a_test_leaves_nothing_to_the_next(network: Network) -> None:
    before = [len(network.api("GET", kind)) for kind in ("identities", "services", "service-policies")]
    network.identity("server")
    network.service("echo")
    network.policy("Bind", ["@echo"], ["@server"])
    network.router.kill()
    network.clear()
    assert network.router.running
    assert [len(network.api("GET", kind)) for kind in ("identities", "services", "service-policies")] == before

"""A real Ziti network on loopback: a controller and a router, from the `ziti` program that PORTICO_TEST_ZITI names."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import httpx
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.namespace import Namespace, loopback_namespace
from tests.ziti.daemon import Daemon

START_SECONDS = HANG_SECONDS
"""For the quickstart (10 on an idle machine) and for a controller (15) or router (0.1) to be there again."""
ENROLL_SECONDS = 30.0
NO_PROGRAM = "no ziti binary: name one in PORTICO_TEST_ZITI"
NO_LIBRARY = "openziti is not installed (pip install 'portico-server[ziti]')"


class Network:
    """A network as `ziti edge quickstart` makes it: every identity may use the router, which serves every service.

    It lies in a network namespace where that can be had, else on this machine's loopback. Its methods work from
    anywhere; whatever else is to reach it has to be started `inside`. What is made here is named by its id, and deleted
    by `clear`.
    """

    def __init__(self, program: str, folder: Path, namespace: Namespace) -> None:
        self._program = program
        self._folder = folder
        self._namespace = namespace
        self._made: list[str] = []
        with self.inside():
            self._ports = _free_port(), _free_port()
        self.url = f"https://127.0.0.1:{self._ports[0]}"
        """The controller's; the Edge Management API lies at /edge/management/v1."""
        self.username, self.password = "admin", "admin"  # the quickstart's
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "ZITI_CTRL_BIND_ADDRESS": "127.0.0.1",
            "ZITI_CTRL_EDGE_BIND_ADDRESS": "127.0.0.1",
        }
        self._client: httpx.Client | None = None
        self._set_up()
        self.controller = self._daemon("controller", "run", str(self._only("ctrl.yaml")))
        self.router = self._daemon("router", "run", str(self._only("router-*.yaml")))

    def inside(self) -> AbstractContextManager[None]:
        """For this thread and the processes that it starts. A test with the fixture `network` is all inside."""
        return self._namespace.inside()

    @property
    def ca(self) -> Path:
        """The certificate that the controller's is signed with, as PEM."""
        return self._only("root-ca.cert")

    def identity(self, name: str, *roles: str) -> Path:
        """An enrolled identity as a file of mode 0600."""
        fields = {"type": "Default", "isAdmin": False, "enrollment": {"ott": True}}
        made = self._make("identities", name=name, roleAttributes=roles, **fields)
        token, path = self._folder / f"{name}.jwt", self._folder / f"{name}.json"
        token.write_text(self.api("GET", made)["enrollment"]["ott"]["jwt"])
        command = [sys.executable, "-m", "openziti", "enroll", "--jwt", str(token), "--identity", str(path)]
        with self.inside():  # the library would leave the private key readable for everybody
            done = subprocess.run(command, umask=0o077, capture_output=True, text=True, timeout=ENROLL_SECONDS)
        assert done.returncode == 0, done.stderr
        return path

    def service(self, name: str, *roles: str) -> str:
        return self._make("services", name=name, encryptionRequired=True, roleAttributes=roles)

    def policy(self, kind: Literal["Bind", "Dial"], services: Sequence[str], identities: Sequence[str]) -> str:
        """Both are role attributes (`#group`) or names (`@name`)."""
        return self._make(
            "service-policies",
            name=f"{kind} {' '.join(services)} {' '.join(identities)}",
            type=kind,
            semantic="AnyOf",
            serviceRoles=[self._role("services", role) for role in services],
            identityRoles=[self._role("identities", role) for role in identities],
        )

    def withdraw(self, made: str) -> None:
        """Delete a policy, or whatever else was made."""
        self.api("DELETE", made)
        self._made.remove(made)

    def clear(self) -> None:
        """Both processes run again, and all that was made is gone."""
        self.controller.start()
        self.router.start()
        self.ready()
        for made in reversed(self._made[:]):
            self.withdraw(made)

    def terminators(self, service: str) -> int:
        """Return the number of hosts that have bound this service, as far as the controller knows."""
        found: list[Any] = self.api("GET", "terminators", params={"filter": f'service.name="{service}"'})
        return len(found)

    def api(self, method: str, path: str, **options: Any) -> Any:
        """The ``data`` of an answer of the Edge Management API, as admin. ``options`` are httpx's."""
        answer = self._request(method, path, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()["data"]

    def ready(self) -> None:
        """Wait until controller and router work together; both must have been started."""
        self._until(self._works, [self.controller, self.router])

    def close(self) -> None:
        for daemon in (self.router, self.controller):
            daemon.stop()
        if self._client is not None:
            self._client.close()

    def _set_up(self) -> None:
        """The quickstart runs both in one process; its files serve to run them apart."""
        controller, router = self._ports
        addresses = ["--ctrl-address", "127.0.0.1", "--router-address", "127.0.0.1"]
        ports = ["--ctrl-port", str(controller), "--router-port", str(router)]
        quickstart = self._daemon("edge", "quickstart", "--home", str(self._folder / "network"), *addresses, *ports)
        quickstart.start()
        try:
            self._until(self._works, [quickstart])
        finally:
            quickstart.stop()
        for path in self._folder.rglob("*.yaml"):  # the router's would listen on every address
            path.write_text(path.read_text().replace(":0.0.0.0:", ":127.0.0.1:"))

    def _daemon(self, *words: str) -> Daemon:
        return Daemon([self._program, *words], self._env, self._folder / f"{words[0]}.log", self._namespace)

    def _only(self, pattern: str) -> Path:
        (found,) = (self._folder / "network").rglob(pattern)
        return found

    def _works(self) -> bool:
        """The router takes connections, knows what it serves, and the controller takes changes."""
        with self.inside(), socket.create_connection(("127.0.0.1", self._ports[1]), timeout=1):
            pass
        routers = self.api("GET", "edge-routers")
        # After a restart of the controller it is online at once, but takes 10 more seconds to be told what it serves.
        synced = bool(routers) and all(router["isOnline"] and router["syncStatus"] == "SYNC_DONE" for router in routers)
        # From 2.0 on a controller is a cluster of one, which takes no change until it has elected itself.
        members = self._request("GET", f"{self.url}/fabric/v1/cluster/list-members")
        return synced and (members.is_error or any(member["leader"] for member in members.json()["data"]))

    def _until(self, works: Callable[[], bool], daemons: list[Daemon]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and all(daemon.running for daemon in daemons):
            with suppress(OSError, httpx.TransportError, AssertionError):
                if works():
                    return
            time.sleep(0.05)
        raise AssertionError("no Ziti network:\n" + "\n".join(daemon.log for daemon in daemons))

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self.inside():
            client = self._client = self._client or self._login()
            answer = client.request(method, path, **options)
            if answer.status_code == httpx.codes.UNAUTHORIZED:  # a controller may forget who is logged in
                client.close()
                client = self._client = self._login()
                answer = client.request(method, path, **options)
            return answer

    def _login(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.ca)
        client = httpx.Client(
            base_url=f"{self.url}/edge/management/v1", verify=context, trust_env=False, timeout=HANG_SECONDS
        )
        try:
            who = {"username": self.username, "password": self.password}
            answer = client.post("authenticate", params={"method": "password"}, json=who)
            assert answer.is_success, answer.text
        except BaseException:
            client.close()
            raise
        client.headers["zt-session"] = answer.json()["data"]["token"]
        return client

    def _make(self, kind: str, **body: Any) -> str:
        made = f"{kind}/{self.api('POST', kind, json=body)['id']}"
        self._made.append(made)
        return made

    def _role(self, kind: str, role: str) -> str:
        if role.startswith("#"):
            return role
        (found,) = self.api("GET", kind, params={"filter": f'name="{role.removeprefix("@")}"'})
        return f"@{found['id']}"


@contextmanager
def running_network(program: str) -> Iterator[Network]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ziti-network-")))
        network = Network(program, folder, stack.enter_context(loopback_namespace()))
        stack.callback(network.close)
        network.clear()
        yield network


@pytest.fixture(scope="session")
def ziti_network() -> Iterator[Network]:
    named = os.environ.get("PORTICO_TEST_ZITI")
    program = shutil.which(named or "ziti")
    if program is None:
        assert not named, f"PORTICO_TEST_ZITI names no program: {named}"
        pytest.skip(NO_PROGRAM)
    if find_spec("openziti") is None:
        pytest.skip(NO_LIBRARY)
    with running_network(program) as network:
        yield network


@pytest.fixture
def network(ziti_network: Network) -> Iterator[Network]:
    """The test is inside; afterwards all that it made is gone, and controller and router run again."""
    with ziti_network.inside():
        try:
            yield ziti_network
        finally:
            ziti_network.clear()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port

"""`portico ask`, `chat` and `sessions` over Ziti: a real server, and clients, on a stand-in for a network."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess
from typing import cast

import anyio
import httpx
import psutil
import pytest

from portico.cli.client.api import Client, Event
from portico.cli.client.connection import find_endpoint
from portico.cli.client.errors import ClientError, ProblemError, Unreachable
from portico.ziti.overlay import DialFailed, Overlay, OverlayDialler, transport
from tests.support.agents import gone_soon
from tests.support.enrolled import identity, write
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, ROOT, environment
from tests.support.terminal import CTRL_C, on_terminal
from tests.support.ziti import STANDIN, Network, Shape, network

pytestmark = pytest.mark.anyio


@dataclass(slots=True)
class Dark:
    """A server that binds `portico-alice` for Alice, and `public` for whoever has a token."""

    network: Network
    home: Path
    token: str

    def identity_file(self, name: str) -> Path:
        return made(self.network, name)

    @property
    def env(self) -> dict[str, str]:
        # Ziti's library gets hardly anything of the environment: what the stand-in needs goes another way.
        shim = self.home.parent / "shim"
        if not shim.exists():
            shim.mkdir()
            given = {name: value for name, value in self.network.environment().items() if name.startswith("ZITI_")}
            (shim / "sitecustomize.py").write_text(f"import os\nos.environ.update({given!r})\n")
        return environment(self.home) | {"PYTHONPATH": os.pathsep.join(map(str, (shim, STANDIN, ROOT)))}

    def overlay(self, name: str = "alice", service: str = "portico-alice") -> Overlay:
        return Overlay(self.identity_file(name), service, self.network.environment())

    def client(self, name: str = "alice", service: str = "portico-alice", *, token: str | None = None) -> Client:
        return Client(
            find_endpoint({}, self.home, token=token, overlay=self.overlay(name, service)), patience=HANG_SECONDS
        )

    def options(self, name: str = "alice", service: str = "portico-alice") -> list[str]:
        return ["--ziti-identity", str(self.identity_file(name)), "--ziti-service", service]

    async def typed(self, *arguments: str, stdin: bytes = b"") -> CompletedProcess[bytes]:
        with anyio.fail_after(HANG_SECONDS):
            return await anyio.run_process(
                [*PORTICO, *arguments], env=self.env, cwd=self.home, input=stdin, check=False
            )


def made(net: Network, name: str) -> Path:
    """With a certificate, which the stand-in itself does not look at."""
    path = net.identities / f"{name}.json"
    return path if path.exists() else write(net.identity_file(name), identity(standin=name))


@pytest.fixture(scope="module", params=["0.6", "1.x"])
async def dark(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dark]:
    async with serving(tmp_path_factory.mktemp("dark"), request.param) as found:
        yield found


@asynccontextmanager
async def serving(folder: Path, shape: Shape) -> AsyncIterator[Dark]:
    home = folder / "home"
    home.mkdir()
    async with network(folder, shape) as net:
        found = Dark(net, home, "")
        net.allow("server", bind=["portico-alice", "public"], dial=["portico-alice", "public"])
        net.allow("alice", dial=["portico-alice", "public"])
        net.allow("bob", dial=["public"])
        settings = {
            "NETWORKING_MODE": "ziti",
            "ZITI_IDENTITY_FILE": str(found.identity_file("server")),
            "ZITI_SERVICE_NAME": "portico-alice=alice,public",
            "PORTICO_DRIVER": "echo",
            "PORTICO_STORE": "memory",
            "PORTICO_MAX_SESSIONS": "100",
            "PORTICO_DATA_DIR": str(folder / "data"),
        }
        with (folder / "server.log").open("wb") as log:
            server = await anyio.open_process(
                [*PORTICO, "serve"], env=found.env | settings, cwd=home, stdin=None, stdout=log, stderr=log
            )
        try:
            await net.bound("portico-alice")
            await net.bound("public")
            found.token = (folder / "data" / "token").read_text().strip()
            yield found
        finally:
            server.terminate()
            with anyio.CancelScope(shield=True):
                await server.wait()


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, for children of the test's own clients."""
    monkeypatch.syspath_prepend(STANDIN)


def dialling(of: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes that dial for a client."""
    return [
        child
        for child in (of or psutil.Process()).children(recursive=True)
        if child.is_running() and "portico.ziti.dialling_process" in " ".join(child.cmdline())
    ]


@pytest.mark.parametrize("dark", [pytest.param("0.6", marks=pytest.mark.long), "1.x"], indirect=True)
async def test_ask_chat_and_sessions_need_no_token_where_the_service_says_who_it_is(dark: Dark) -> None:
    done = await dark.typed("ask", "hello there", "--session", "asked", *dark.options())
    assert (done.returncode, done.stdout) == (0, b"hello there\n"), done.stderr
    done = await dark.typed("chat", "asked", *dark.options(), stdin=b"and again\n")
    assert done.returncode == 0 and done.stdout.endswith(b"and again\n"), done.stderr
    done = await dark.typed("sessions", "--json", *dark.options())
    (session,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (session["session_id"], session["owner"], session["turns"]) == ("asked", "alice", 2)
    done = await dark.typed("sessions", *dark.options(), "close", "asked")
    assert done.stdout == b"session asked is closed\n"


async def test_a_token_is_passed_on_and_asked_for_where_the_service_is_nobody_s(dark: Dark) -> None:
    with pytest.raises(ProblemError, match="the Ziti service public wants a token"):
        async with dark.client("bob", "public") as client:
            await client.sessions()
    async with dark.client("bob", "public", token=dark.token) as client:
        assert (await client.create_session({}))["owner"] == "admin"


@pytest.mark.parametrize("reads", [False, True], ids=["at once", "after the request"])
async def test_a_connection_that_ends_before_any_answer_is_one_to_nobody(reads: bool) -> None:
    ours, theirs = socket.socketpair()

    class Dialled:
        async def dial(self) -> socket.socket:
            if not reads:
                theirs.close()
            return ours

    async def leave() -> None:
        await anyio.wait_readable(theirs)
        theirs.recv(65_536)
        theirs.close()

    async with anyio.create_task_group() as tasks:
        if reads:
            tasks.start_soon(leave)
        async with httpx.AsyncClient(
            transport=transport(cast(OverlayDialler, Dialled())), timeout=HANG_SECONDS
        ) as client:
            with pytest.raises(httpx.ConnectError, match="has a server bound the service"):
                await client.get("http://service/")


@pytest.mark.parametrize(
    ("who", "service", "words"),
    [
        ("alice", "nowhere", "the network has no such service, or this identity may not dial it"),
        ("bob", "portico-alice", "this identity may not dial it|no such service"),
        ("alice", "unbound", "no server has bound it|has a server bound the service"),
    ],
)
async def test_services_that_can_t_be_dialled(dark: Dark, who: str, service: str, words: str) -> None:
    dark.network.allow("alice", dial=["unbound"])
    with pytest.raises(Unreachable, match=f"can't reach the Ziti service {service}: .*({words})"):
        async with dark.client(who, service) as client:
            for _ in range(3):  # a dial that fails costs descriptors, and closes a foreign one
                with pytest.raises(Unreachable):
                    await client.sessions()
            await client.sessions()


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("garbage", 0o600, "it is no enrolled identity"),
        (identity(days=-2), 0o600, "its certificate has expired"),
        ("eyJhbGciOi", 0o600, "it is an enrolment token, which `portico ziti enroll` trades for one"),
        (identity(), 0o644, r"others on this machine can get at its key \(mode 0644\): chmod 600 "),
    ],
)
async def test_identities_that_are_none_never_reach_the_library(
    tmp_path: Path, content: object, mode: int, words: str
) -> None:
    file = write(tmp_path / "alice.json", content, mode)
    client = Client(find_endpoint({}, tmp_path, overlay=Overlay(file, "portico-alice", {})))
    with pytest.raises(Unreachable, match=f"{re.escape(str(file))}.*{words}|{words}"):
        async with client:
            pass
    assert dialling() == []


async def test_an_identity_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "there is no such file"), (tmp_path, "it is not a file")):
        with pytest.raises(Unreachable, match=words):
            async with Client(find_endpoint({}, tmp_path, overlay=Overlay(path, "portico-alice", {}))):
                pass


@asynccontextmanager
async def mood(dark: Dark, name: str, **moods: object) -> AsyncIterator[None]:
    dark.network.moods(name, **moods)
    try:
        yield
    finally:
        dark.network.moods(name, **dict.fromkeys(moods))


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ("hang", "logging in with .* took more than 0.5 seconds"),
        ("segfault", r"Ziti's library crashed \(SIGSEGV\)"),
        (-14, "the controller does not know this identity|not take"),
    ],
)
async def test_a_login_that_fails(dark: Dark, monkeypatch: pytest.MonkeyPatch, load: object, words: str) -> None:
    monkeypatch.setattr("portico.ziti.overlay.LOAD_SECONDS", 0.5)
    monkeypatch.setattr("portico.ziti.overlay.MARGIN", 0)
    if load != "hang":
        monkeypatch.setattr("portico.ziti.overlay.LOAD_SECONDS", 10)
    async with mood(dark, "alice", load=load):
        with pytest.raises(Unreachable, match=f"can't reach the Ziti service portico-alice: .*({words})"):
            async with dark.client():
                pass
    assert dialling() == []
    async with dark.client() as client:
        await client.sessions()


async def test_a_dial_that_hangs_is_given_up_and_the_next_one_works(
    dark: Dark, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dark.client() as client:
        monkeypatch.setattr("portico.ziti.overlay.DIAL_SECONDS", 0.5)
        monkeypatch.setattr("portico.ziti.overlay.MARGIN", 0)
        async with mood(dark, "portico-alice", connect="hang"):
            with pytest.raises(Unreachable, match="dialling the service portico-alice took more than"):
                await client.sessions()
            assert dialling() == []
        monkeypatch.setattr("portico.ziti.overlay.DIAL_SECONDS", 10)
        await client.sessions()
        assert len(dialling()) == 1
    assert dialling() == []


async def test_a_dial_that_was_cancelled_harms_none_after_it(dark: Dark) -> None:
    async with dark.client() as client:
        async with mood(dark, "portico-alice", accept_wait=0.2):
            for _ in range(2):
                with anyio.move_on_after(0.1):
                    await client.sessions()
        await client.sessions()


async def test_a_dial_that_fails_harms_none_before_it(dark: Dark) -> None:
    async with dialler(dark) as one:
        connections = []
        for _ in range(3):
            async with mood(dark, "portico-alice", connect=-19):
                with pytest.raises(DialFailed):
                    await one.dial()
            connections.append(await one.dial())
        (child,) = dialling()
        # What comes to be descriptor 0 is closed by the next dial that fails (0.6.0).
        assert os.readlink(f"/proc/{child.pid}/fd/0") == os.devnull
        for connection in connections:
            connection.settimeout(HANG_SECONDS)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            connection.close()


async def test_connections_that_were_closed_leave_nothing_behind(dark: Dark) -> None:
    async with dialler(dark) as one:
        (child,) = dialling()
        before = child.num_fds()
        for _ in range(20):
            (await one.dial()).close()
        with anyio.fail_after(HANG_SECONDS):
            while child.num_fds() > before + 10:
                await anyio.sleep(0.05)


@asynccontextmanager
async def dialler(dark: Dark) -> AsyncIterator[OverlayDialler]:
    made = OverlayDialler(dark.overlay())
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def test_a_stream_goes_on_when_its_dialler_is_killed(dark: Dark) -> None:
    """Whatever the library does to its process, it is as a connection that was cut."""
    async with dark.client() as client:
        session = (await client.create_session({}))["session_id"]
        events: list[Event] = []
        async for event in client.query(session, "one two three four five six"):
            if not events:
                (child,) = dialling()
                child.kill()
            events.append(event)
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers)) and events[-1]["type"] == "complete"
    assert "".join(event["content"] for event in events if event["type"] == "delta") == "one two three four five six"


async def test_many_at_once(dark: Dark) -> None:
    async with dark.client() as client:
        sessions = [(await client.create_session({}))["session_id"] for _ in range(8)]
        answers: dict[str, str] = {}

        async def ask(session: str) -> None:
            async for event in client.query(session, f"I am {session}"):
                if event["type"] == "delta":
                    answers[session] = answers.get(session, "") + event["content"]

        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(ask, session)
        assert answers == {session: f"I am {session}" for session in sessions}
        for session in sessions:
            await client.close_session(session, purge=True)


async def test_ctrl_c_ends_a_login_that_hangs_the_first_time(dark: Dark) -> None:
    async with mood(dark, "alice", load="hang"):
        command = [*PORTICO, "ask", "hi", *dark.options()]
        async with on_terminal(command, dark.env, dark.home) as terminal:
            (child,) = await some(lambda: dialling(psutil.Process(terminal.process.pid)))
            await terminal.type(CTRL_C)
            assert await terminal.exit_status() == 130
            assert gone_soon([child])
            assert "Traceback" not in terminal.text


async def test_no_dialler_outlives_a_client_that_was_killed(dark: Dark) -> None:
    async with mood(dark, "alice", load="hang"):  # the library hangs in C: nothing but the process can end it
        command = [*PORTICO, "sessions", *dark.options()]
        async with await anyio.open_process(command, env=dark.env, cwd=dark.home) as client:
            (child,) = await some(lambda: dialling(psutil.Process(client.pid)))
            client.kill()
            assert gone_soon([child])


async def some(find: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    with anyio.fail_after(HANG_SECONDS):
        while not (found := find()):
            await anyio.sleep(0.05)
    return found


needs_library = pytest.mark.skipif(find_spec("openziti") is None, reason="openziti is not installed")


@needs_library
@pytest.mark.parametrize("answers", [False, True])
async def test_the_real_library_and_a_controller_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.undo()  # no stand-in
    monkeypatch.setattr("portico.ziti.overlay.LOAD_SECONDS", 0.5)
    with socket.socket() as controller:
        controller.bind(("127.0.0.1", 0))
        if answers:
            controller.listen()  # and says nothing: 0.6.0 waits for ever
        file = write(tmp_path / "alice.json", identity(f"https://127.0.0.1:{controller.getsockname()[1]}"))
        words = "took more than 1.5 seconds" if answers else "the controller can't be reached"
        with pytest.raises(ClientError, match=words):
            async with Client(find_endpoint({}, tmp_path, overlay=Overlay(file, "x", os.environ))):
                pass
    assert dialling() == []

"""A server under a service manager: the news that it tells, and the sockets that it is given."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import anyio
import httpx
import pytest
import trustme

from portico.config.load import SettingsError
from portico.config.supervision import Supervision, supervision
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, RunningServer, environment, running_server, server_of
from tests.support.supervised import news, starter

pytestmark = pytest.mark.anyio


async def test_the_manager_is_told_of_start_reload_life_and_stop(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    variables = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "300000"}
    with news(address) as told:
        async with server_of(starter(), (), tmp_path, "--driver", "echo", **variables) as server:
            ready = await told.until(READY="1")
            assert ready["STATUS"] == f"serving on {server.url}"
            assert httpx.get(f"{server.url}/healthz", timeout=HANG_SECONDS).status_code == 200
            await told.until(WATCHDOG="1")
            await told.until(WATCHDOG="1")
            server.process.send_signal(signal.SIGHUP)
            assert int((await told.until(RELOADING="1"))["MONOTONIC_USEC"]) > 0
            assert (await told.until(READY="1"))["STATUS"] == ready["STATUS"]
            server.process.send_signal(signal.SIGTERM)
            stopping = await told.until(STOPPING="1")
            assert "SIGTERM" in stopping["STATUS"] and int(stopping["EXTEND_TIMEOUT_USEC"]) == 90_000_000


async def test_a_manager_behind_an_abstract_socket_hears_it_and_one_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    name = f"portico-test-{secrets.token_hex(8)}"
    with news(f"\0{name}") as told:
        async with running_server(tmp_path, "--driver", "echo", NOTIFY_SOCKET=f"@{name}") as server:
            assert (await told.until(READY="1"))["STATUS"] == f"serving on {server.url}"
    (tmp_path / "again").mkdir()
    gone = {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "100000"}
    async with server_of(starter(), (), tmp_path / "again", "--driver", "echo", **gone) as server:
        assert httpx.get(f"{server.url}/healthz", timeout=HANG_SECONDS).status_code == 200
    log = (tmp_path / "again" / "server.log").read_text()
    assert log.count("the service manager can't be told") == 1


def listening(family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)  # type: ignore[arg-type]
    listener.listen()
    return listener


async def healthy(url: str, verify: ssl.SSLContext | bool = True, uds: Path | None = None, host: str = "") -> int:
    transport = httpx.AsyncHTTPTransport(uds=None if uds is None else str(uds), verify=verify)
    async with httpx.AsyncClient(transport=transport, timeout=HANG_SECONDS) as client:
        return (await client.get(f"{url}/claude/sessions", headers={"host": host} if host else {})).status_code


async def test_sockets_that_are_open_already_are_served_in_place_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "given"
    with listening() as tcp, listening(socket.AF_UNIX, str(path)) as unix:
        descriptors = [tcp.fileno(), unix.fileno()]
        prefix = starter(descriptors)
        url = f"http://127.0.0.1:{tcp.getsockname()[1]}"
        async with server_of(
            prefix, descriptors, tmp_path, "--driver", "echo", "--uds", str(tmp_path / "own"), LISTEN_FDNAMES="tcp:unix"
        ) as server:
            assert server.url == url
            assert not (tmp_path / "own").exists()
            tcp.close()  # only the server has it now
            assert await healthy(url) == await healthy("http://localhost", uds=path) == 401
            assert await healthy(url, host="other.example") == 403
            assert f"has opened {url}, unix:{path}" in (tmp_path / "server.log").read_text()
        assert path.exists()  # it is the manager's


async def test_a_unix_socket_alone_takes_every_name_and_is_found_by_clients(tmp_path: Path) -> None:
    path = tmp_path / "given"
    with listening(socket.AF_UNIX, str(path)) as unix:
        async with server_of(starter([unix.fileno()]), [unix.fileno()], tmp_path, "--driver", "echo") as server:
            assert server.url == f"unix:{path}"
            assert await healthy("http://localhost", uds=path, host="any.example") == 401
            command = [*PORTICO, "sessions"]
            done = await anyio.run_process(command, env=server.client_env, cwd=tmp_path)
            assert done.returncode == 0


async def test_tls_is_for_the_tcp_sockets(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    path = tmp_path / "given"
    with listening(socket.AF_UNIX, str(path)) as unix, listening() as tcp:
        descriptors = [unix.fileno(), tcp.fileno()]
        options = ("--driver", "echo", "--tls-cert", str(cert), "--tls-key", str(key))
        async with server_of(starter(descriptors), descriptors, tmp_path, *options):
            assert await healthy("http://localhost", uds=path) == 401
            assert await healthy(f"https://127.0.0.1:{tcp.getsockname()[1]}", trust) == 401


def refused(folder: Path, given: socket.socket, *options: str, **variables: str) -> tuple[int, str]:
    """Start a server with the socket; return its exit status and its words."""
    command = [*starter([given.fileno()]), *PORTICO, "serve", "--driver", "echo", *options]
    env = environment(folder, PORTICO_DATA_DIR=str(folder / "data"), PORTICO_PORT="0", **variables)
    done = subprocess.run(
        command, env=env, cwd=folder, pass_fds=[given.fileno()], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    return done.returncode, done.stderr


def test_what_is_no_listening_socket_is_said_by_its_name(tmp_path: Path) -> None:
    with socket.socket() as silent, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for given, why in ((silent, "does not listen"), (datagrams, "no stream socket")):
            status, words = refused(tmp_path, given, LISTEN_FDNAMES="web")
            assert status == 1 and "descriptor 3 (web)" in words and why in words and "Traceback" not in words


def test_without_credentials_no_socket_is_served_that_others_reach(tmp_path: Path) -> None:
    with listening(address=("0.0.0.0", 0)) as open_to_all:  # noqa: S104
        status, words = refused(tmp_path, open_to_all, "--auth", "none")
        assert status == 1 and "with auth=none anybody could use the server" in words


async def test_sockets_for_another_process_are_left_alone(tmp_path: Path) -> None:
    with listening() as tcp:
        variables = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        async with running_server(tmp_path, "--driver", "echo", **variables) as server:
            assert isinstance(server, RunningServer)
            assert server.url != f"http://127.0.0.1:{tcp.getsockname()[1]}"


def test_the_variables_of_a_manager() -> None:
    assert supervision({}, 7) == Supervision()
    assert supervision({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000"}, 7) == Supervision("\0x", 3.0)
    assert supervision({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}, 7) == Supervision()
    three = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "a::", "LISTEN_PID": "7"}
    assert supervision(three, 7).descriptors == ((3, "a"), (4, "unknown"), (5, "unknown"))
    assert supervision(three, 8).descriptors == supervision({"LISTEN_FDS": "1"}, 7).descriptors == ()
    for wrong in ({"LISTEN_FDS": "many"}, {"LISTEN_FDS": "-1"}, {"LISTEN_FDS": "9999"}, {"WATCHDOG_USEC": "0"}):
        with pytest.raises(SettingsError):
            supervision({**wrong, "LISTEN_PID": "7"}, 7)

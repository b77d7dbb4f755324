"""The address of a client's server, and the message when there is none."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from portico.cli.client.api import Client
from portico.cli.client.connection import Endpoint, find_endpoint
from portico.cli.client.errors import EndpointError, ProblemError, Unreachable
from portico.plugins.demo.model_server import serve_model
from tests.support.server import RunningServer


def server_runs(folder: Path, url: str = "http://127.0.0.1:8787", *, pid: int | None = None) -> None:
    entry = {"url": url, "api_prefix": "/claude", "pid": pid or os.getpid()}
    (folder / "server.json").write_text(json.dumps(entry))
    (folder / "token").write_text("local-secret\n")


def test_an_option_wins_over_the_environment_and_that_over_the_data_folder(tmp_path: Path) -> None:
    server_runs(tmp_path)
    environ = {"PORTICO_URL": "http://127.0.0.1:2", "PORTICO_TOKEN": "env-secret"}
    local = find_endpoint({}, tmp_path)
    assert (local.url, local.token, local.api_prefix) == ("http://127.0.0.1:8787", "local-secret", "/claude")
    second = find_endpoint(environ, tmp_path)
    assert (second.url, second.token, second.token_source) == ("http://127.0.0.1:2", "env-secret", "PORTICO_TOKEN")
    first = find_endpoint(environ, tmp_path, server="http://127.0.0.1:3", token="opt")
    assert (first.url, first.token, first.source) == ("http://127.0.0.1:3", "opt", "--server")


def test_a_server_that_is_mounted_in_another_app_is_found_below_its_path(tmp_path: Path) -> None:
    server_runs(tmp_path, "http://127.0.0.1:8787/agents")
    found = find_endpoint({}, tmp_path)
    assert (found.url, found.api_prefix) == ("http://127.0.0.1:8787", "/agents/claude")


@pytest.mark.parametrize(
    ("text", "url", "uds", "prefix"),
    [
        ("https://example.org", "https://example.org", None, "/claude"),
        ("https://example.org/", "https://example.org", None, "/claude"),
        ("http://[::1]:80/a/b/", "http://[::1]", None, "/a/b"),
        ("unix:/run/p.sock", "http://localhost", "/run/p.sock", "/claude"),
        ("unix:///run/p.sock", "http://localhost", "/run/p.sock", "/claude"),
    ],
)
def test_addresses(tmp_path: Path, text: str, url: str, uds: str | None, prefix: str) -> None:
    found = find_endpoint({}, tmp_path, server=text)
    assert (found.url, found.uds, found.api_prefix) == (url, uds, prefix)


@pytest.mark.parametrize(
    "text",
    ["example.org:80", "ftp://example.org", "http://", "http://h/?a=b", "unix:p.sock", "http://h:x", "http://u:p@h"],
)
def test_what_is_no_address_is_refused_and_the_source_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(EndpointError, match="PORTICO_URL"):
        find_endpoint({"PORTICO_URL": text}, tmp_path)


def test_the_local_token_is_not_sent_to_other_machines(tmp_path: Path) -> None:
    server_runs(tmp_path)
    assert find_endpoint({}, tmp_path, server="https://example.org").token is None
    for local in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1", "unix:/p.sock"):
        assert find_endpoint({}, tmp_path, server=local).token == "local-secret"


def test_a_token_is_never_shown_with_its_endpoint(tmp_path: Path) -> None:
    server_runs(tmp_path)
    assert "local-secret" not in repr(find_endpoint({}, tmp_path))


@pytest.mark.parametrize("token", ["two words", "caf\u00e9", "\n"])
def test_what_is_no_token_is_refused_without_showing_it(tmp_path: Path, token: str) -> None:
    server_runs(tmp_path)
    with pytest.raises(EndpointError, match="PORTICO_TOKEN") as raised:
        find_endpoint({"PORTICO_TOKEN": token}, tmp_path)
    assert token not in str(raised.value).replace("\n", "") or token == "\n"


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="portico serve"):
        find_endpoint({}, tmp_path)


def test_a_server_that_was_killed_is_not_taken_for_a_running_one(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    server_runs(tmp_path, pid=process.pid)
    with pytest.raises(EndpointError, match=f"process {process.pid}"):
        find_endpoint({}, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"url": 1}', '{"url": "x", "api_prefix": "/c", "pid": 1}'])
def test_a_damaged_entry_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    with pytest.raises(EndpointError, match=r"server\.json"):
        find_endpoint({}, tmp_path)


@pytest.mark.anyio
async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{free.getsockname()[1]}", source="PORTICO_URL")
        async with Client(endpoint) as client:
            with pytest.raises(Unreachable, match=r"(?i)connection refused.*PORTICO_URL.*portico serve"):
                await client.sessions()


@pytest.mark.anyio
async def test_no_such_socket(tmp_path: Path) -> None:
    async with Client(Endpoint("http://localhost", uds=str(tmp_path / "none.sock"))) as client:
        with pytest.raises(Unreachable, match=r"none\.sock: No such file"):
            await client.sessions()


@pytest.mark.anyio
@pytest.mark.real_cli
class TestARealServer:
    async def test_a_wrong_token_is_named_by_where_it_is_from(self, server: RunningServer) -> None:
        endpoint = find_endpoint({"PORTICO_TOKEN": "wrong"}, server.data_dir)
        async with Client(endpoint) as client:
            with pytest.raises(ProblemError, match="does not take the token from PORTICO_TOKEN") as raised:
                await client.sessions()
        assert raised.value.status == 401
        assert "wrong" not in str(raised.value)

    async def test_tls_where_there_is_none(self, server: RunningServer) -> None:
        async with Client(Endpoint(server.url.replace("http:", "https:"))) as client:
            with pytest.raises(Unreachable, match="http://"):
                await client.sessions()

    async def test_a_wrong_prefix(self, server: RunningServer) -> None:
        async with Client(find_endpoint({}, server.data_dir, server=f"{server.url}/nothing")) as client:
            with pytest.raises((ProblemError, Unreachable)) as raised:
                await client.sessions()
        assert "404" in str(raised.value) or "not_found" in str(raised.value)


@pytest.mark.anyio
async def test_what_answers_is_no_portico() -> None:
    async with serve_model() as model, Client(Endpoint(model.url)) as client:
        with pytest.raises(Unreachable, match="no Portico server"):
            await client.sessions()

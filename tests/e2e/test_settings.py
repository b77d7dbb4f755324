"""Each setting, changed, changes what an outsider observes. The tests are named after the settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import httpx
import pytest

from portico.config.settings import Settings
from tests.e2e import test_background as background_tests
from tests.e2e import test_gateway as gateway_tests
from tests.e2e import test_settings_together as together
from tests.e2e import test_spending as spending_tests
from tests.support.agents import real_cli
from tests.support.certificates import Certificates
from tests.support.limits import HANG_SECONDS
from tests.support.programs import needs
from tests.support.server import PORTICO, ROOT, environment, running_server
from tests.support.sight import sees_servers
from tests.support.talk import only, script, talk, text
from tests.support.users import STRANGER, common_folder, gets_in, needs_root
from tests.support.websocket import talking
from tests.ziti import test_settings as ziti_settings

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


def test_every_setting_has_its_test() -> None:
    modules = (together, ziti_settings, background_tests, gateway_tests, spending_tests)
    tests = [name for name in [*globals(), *(name for module in modules for name in vars(module))] if "test_" in name]
    tests += [f"test_{name}" for name in SHOWN_WITH_ANOTHER]
    missing = [name for name in Settings.model_fields if not any(test.startswith(f"test_{name}") for test in tests)]
    assert missing == []
    assert [test for test in SHOWN_WITH_ANOTHER.values() if test not in tests] == []


async def test_key_gateway_off_hands_the_credential_to_the_agent(tmp_path: Path) -> None:
    variables = {"ANTHROPIC_API_KEY": "sk-of-the-test", "PORTICO_KEY_GATEWAY": "off", "PORTICO_POOL_SIZE": "1"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        with anyio.fail_after(HANG_SECONDS):
            while server.count_agents() != 1:  # which the size of the pool is
                await anyio.sleep(0.05)
        found = await together.environment_of_a_tool(client)
        assert found["ANTHROPIC_API_KEY"] == "sk-of-the-test" and "ANTHROPIC_UNIX_SOCKET" not in found
        assert server.model.requests[-1].headers["x-api-key"] == "sk-of-the-test"


async def test_max_sessions_per_principal_and_max_turns_per_minute(tmp_path: Path) -> None:
    each = ("--max-sessions-per-principal", "2", "--max-turns-per-minute", "3")
    limits = (*each, "--max-queued-turns", "0", "--max-sessions", "4")
    tokens = {"PORTICO_AUTH_TOKENS": "alice:alice-secret,root:root-secret:admin"}
    async with (
        running_server(tmp_path, "--driver", "echo", *limits, **tokens) as server,
        talk(server, "alice-secret") as alice,
        talk(server, "root-secret") as root,
    ):
        for session_id in ("a", "b"):
            await alice.open(session_id=session_id)
        refused = await alice.http.post("/sessions", json={})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_sessions")
        await root.open()
        await alice.http.delete("/sessions/b")
        await alice.open(session_id="c")
        await root.open()
        refused = await root.http.post("/sessions", json={})  # a limit of all, that is
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_sessions")
        for number in range(3):
            turn = {"query": '{"deltas": null, "gap": 0.05}' if number == 2 else "x", "turn_id": str(number)}
            for _ in range(3):  # the same once more is no other
                assert (await alice.http.post("/sessions/a/turns", json=turn)).status_code == 202
            await alice.until("a", "complete" if number < 2 else "delta", turn_id=str(number))
            assert (await alice.http.post("/sessions/c/turns", json={"query": "x", "turn_id": "x" * 300})).is_error
        for session_id, code in (("a", "queue_full"), ("c", "too_many_turns")):
            refused = await alice.http.post(f"/sessions/{session_id}/turns", json={"query": "x"})
            assert (refused.status_code, refused.json()["code"]) == (429, code)
            assert 0 < int(refused.headers["Retry-After"]) <= 60
        async with talking(server.url, "/claude/ws/c", v1=True, token="alice-secret") as socket:
            nack = await socket.ask({"type": "query", "content": "x"})
            assert (nack["type"], nack["code"], nack["status"]) == ("nack", "too_many_turns", 429)
        assert (await root.http.post("/sessions/c/turns", json={"query": "x"})).status_code == 202
        await alice.http.post("/sessions/a/interrupt")


async def test_turn_timeout_ends_the_turn_and_not_the_session(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--turn-timeout", "2", "--driver", "echo") as server, talk(server) as client:
        await client.open(session_id="s")
        turn = await client.turn("s", '{"deltas": null, "gap": 0.05}')
        assert only(turn, "error")["code"] == "turn_timeout"
        assert turn[-1]["stop_reason"] == "timeout"
        assert turn[-1]["duration_ms"] > 1900
        assert text(await client.turn("s", "fine")) == "fine"


async def test_write_timeout_cuts_a_client_that_reads_nothing(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--write-timeout", "1", "--driver", "echo") as server:
        async with talk(server) as client:
            await client.open(session_id="s")
            await client.turn("s", '{"deltas": 8, "size": 1000000}')
            port = httpx.URL(server.url).port
            assert port is not None
            head = f"Host: localhost\r\nAuthorization: Bearer {server.token}"
            request = f"GET /claude/sessions/s/events HTTP/1.1\r\n{head}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", port)) as idle:
                idle.sendall(request.encode())
                with anyio.fail_after(HANG_SECONDS):
                    while "events" not in together.log(server):
                        await anyio.sleep(0.05)
                idle.settimeout(HANG_SECONDS)
                with pytest.raises(ConnectionResetError):
                    while idle.recv(1 << 20):
                        pass


async def test_heartbeat(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--heartbeat", "1", "--driver", "echo") as server, talk(server) as client:
        await client.open(session_id="s")
        times: list[float] = []
        async with client.http.stream("GET", "/sessions/s/events") as answer:
            async for line in answer.aiter_lines():
                if line == ":":
                    times.append(anyio.current_time())
                    if len(times) == 2:
                        break
        assert times[1] - times[0] < 10  # it would be 15


@pytest.mark.parametrize("setting", ["networking_mode", "store", "driver", "auth", "disabled_plugins"])
async def test_networking_mode_store_driver_and_auth_list_what_there_is(tmp_path: Path, setting: str) -> None:
    known = {
        "networking_mode": "http, websocket",
        "store": "memory, sqlite",
        "driver": "claude-code, echo",
        "auth": "none, token",
        "disabled_plugins": "there is no plugin 'nonsense'; there are: claude-code, echo, ",
    }[setting]
    done = await portico(tmp_path, "serve", f"--{setting.replace('_', '-')}", "nonsense")
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "nonsense" in line and known in line


async def test_store_and_what_a_restart_leaves_of_it(tmp_path: Path) -> None:
    variables = {"PORTICO_DATA_DIR": str(tmp_path / "data"), "PORTICO_DRIVER": "echo"}
    kept = {"sqlite": [404, 404], "memory": [404, 404], "sqlite again": [200, 404]}
    for name, statuses in kept.items():
        (folder := tmp_path / name).mkdir()
        store = name.removesuffix(" again")
        async with running_server(folder, PORTICO_STORE=store, **variables) as server, talk(server) as client:
            found = [
                (await client.http.get(f"/sessions/{session_id}")).status_code for session_id in ("sqlite", "memory")
            ]
            assert found == statuses, name
            await client.open(session_id=name.replace(" ", "-"))


@needs("strace")  # nothing else shows a sync from outside
@sees_servers
async def test_store_sync_full_syncs_the_file_at_every_commit(tmp_path: Path) -> None:
    calls = {}
    for sync in ("normal", "full"):
        folder = tmp_path / sync
        folder.mkdir()
        trace = folder / "trace"
        command = ["strace", "-f", "-q", "-e", "trace=fsync,fdatasync", "-o", str(trace), "-p"]
        async with running_server(folder, PORTICO_STORE_SYNC=sync) as server:
            async with await anyio.open_process([*command, str(server.process.pid)], stderr=None) as tracer:
                await traced(server.process.pid)
                async with talk(server) as client:
                    for _ in range(5):
                        await client.open()
                tracer.terminate()
        calls[sync] = trace.read_text().count("sync(")
    assert calls["normal"] < 5 <= calls["full"]


async def traced(pid: int) -> None:
    """Wait until another process traces all threads of this one."""
    with anyio.fail_after(HANG_SECONDS):
        while True:
            with suppress(OSError):  # a thread may end meanwhile
                threads = Path(f"/proc/{pid}/task").glob("*/status")
                if all("TracerPid:\t0\n" not in status.read_text() for status in threads):
                    return
            await anyio.sleep(0.05)


@pytest.mark.long
async def test_retention_mb_and_retention_days_delete_what_is_too_much_or_too_old(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--max-tokens", "1000000") as server, talk(server) as client:
        await client.open(session_id="s")
        for _ in range(3):
            await client.turn("s", script({"size": 2_000_000, "say": os.urandom(500_000).hex()}))
        whole = (await client.session("s"))["last_seq"]
    for n, limit in enumerate(({"PORTICO_RETENTION_MB": "1"}, {"PORTICO_RETENTION_DAYS": "0.000001"})):
        folder = tmp_path / str(n)
        shutil.copytree(server.data_dir, folder / "data", ignore=shutil.ignore_patterns("devices"))
        async with running_server(folder, **limit) as again, talk(again) as client:
            with anyio.fail_after(HANG_SECONDS):
                while (first := (await client.history("s"))[0])["type"] != "gap":
                    await anyio.sleep(0.1)
            assert first["after"] == 0 and 1 < first["min_seq"] <= whole + 2
            assert "seq" not in first
            async with client.http.stream("GET", "/sessions/s/events") as answer:
                async for line in answer.aiter_lines():
                    assert not line.startswith("id: ")  # the gap comes first, and has none
                    if line.startswith("data: "):
                        assert json.loads(line[6:])["type"] == "gap"
                        break


async def test_session_timeout_and_log_level(tmp_path: Path) -> None:
    quiet = {"SESSION_TIMEOUT": "0.3", "PORTICO_LOG_LEVEL": "error"}
    async with running_server(tmp_path, "--driver", "echo", **quiet) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.until("s", "session", state="dormant")
        assert "POST" not in together.log(server)


async def test_max_processes_process_wait_and_drain_timeout(tmp_path: Path) -> None:
    limits = ("--max-processes", "1", "--process-wait", "0.3", "--drain-timeout", "0", "--driver", "echo")
    async with running_server(tmp_path, *limits) as server, talk(server) as client:
        await client.open(session_id="a")
        await client.open(session_id="b")
        await client.start("a", '{"deltas": null, "gap": 0.05}')
        await client.until("a", "delta")
        assert only(await client.turn("b", "hello"), "error")["code"] == "no_capacity"
        await server.stop()  # it waits for no end of the turn, which has none


async def portico(tmp_path: Path, *arguments: str) -> CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], "PORTICO_DATA_DIR": str(tmp_path / "data"), "HOME": str(tmp_path)}
    return await anyio.run_process(
        [sys.executable, "-m", "portico", *arguments],
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=False,
        cwd=tmp_path,
    )


async def test_claude_cli_path(tmp_path: Path) -> None:
    path = tmp_path / "later"
    async with running_server(tmp_path, PORTICO_CLAUDE_CLI_PATH=str(path)) as server, talk(server) as client:
        assert (await client.http.post("/sessions", json={})).json()["code"] == "cli_not_found"
        ready = httpx.get(f"{server.url}/readyz", timeout=HANG_SECONDS)
        assert ready.status_code == 200 and str(path) in ready.json()["failed"]["driver claude-code"]
        path.symlink_to(real_cli())
        await client.open()
        assert httpx.get(f"{server.url}/readyz", timeout=HANG_SECONDS).json() == {"status": "ok"}


async def test_uds_is_the_only_way_in(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with running_server(tmp_path, "--uds", str(path)) as server:
        assert server.url == f"unix:{path}"
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://portico", timeout=HANG_SECONDS) as client:
            assert (await client.get("/healthz")).status_code == 200
        assert path.stat().st_mode & 0o777 == 0o660
    assert not path.exists()


@needs_root
async def test_uds_group_and_uds_mode_let_a_proxy_in_and_no_stranger(tmp_path: Path) -> None:
    with common_folder() as common:
        path, group = common / "socket", STRANGER + 1
        cases = [((), False, False), (("--uds-group", str(group)), True, False), (("--uds-mode", "666"), True, True)]
        for number, (options, proxy_in, stranger_in) in enumerate(cases):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with running_server(folder, "--driver", "echo", "--uds", str(path), *options):
                assert (gets_in(path, STRANGER, [group]), gets_in(path, STRANGER)) == (proxy_in, stranger_in), options


@pytest.mark.parametrize("option", ["--uds-mode=1660", "--uds-mode=rw", "--uds-group=no-such-group", "--uds-group=-1"])
def test_a_wrong_uds_mode_or_uds_group_stops_the_start(tmp_path: Path, option: str) -> None:
    command = [*PORTICO, "serve", "--driver", "echo", f"--uds={tmp_path / 'socket'}", option]
    done = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"portico: {option}: ") and done.stderr.count("\n") == 1


async def test_workspace_roots_do_not_open_what_others_keep_there(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        others = Path((await client.open())["cwd"])
        (others / "nested").mkdir()
        (server.data_dir / "workspaces" / "link").symlink_to(others)
        beside = (others, others / "nested", others.parent, others.parent / "link", server.data_dir / "agents")
        for cwd in (*beside, server.data_dir, others / ".." / others.name):
            answer = await client.http.post("/sessions", json={"cwd": str(cwd)})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), cwd
        assert others.stat().st_mode & 0o777 == others.parent.stat().st_mode & 0o777 == 0o700
    root, folder = tmp_path / "root", tmp_path / "again"
    (root / "project").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    folder.mkdir()
    roots = {"PORTICO_WORKSPACE_ROOTS": f"{tmp_path / 'link'},{folder}"}  # the second holds the data folder
    async with running_server(folder, **roots, PORTICO_POOL_SIZE="0") as server, talk(server) as client:
        assert (await client.open(cwd=str(tmp_path / "link" / "project")))["cwd"] == str(root / "project")
        assert (await client.open(cwd=str(root)))["cwd"] == str(root)
        others = Path((await client.open(session_id="s"))["cwd"])
        # An agent could write the .env of the next start where the server was started.
        for cwd in (others, others.parent, folder, server.data_dir, server.data_dir / "agents", server.home):
            answer = await client.http.post("/sessions", json={"cwd": str(cwd)})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), cwd
        others.rename(tmp_path / "was")  # as an agent without a sandbox could, between two turns
        others.symlink_to(server.data_dir)
        assert only(await client.turn("s", "hello"), "error")["code"] == "workspace_moved"


async def test_auth_none_lets_everybody_in_and_api_prefix(tmp_path: Path) -> None:
    settings = {"PORTICO_AUTH": "none", "PORTICO_API_PREFIX": "/api/v1", "PORTICO_PREFIX_EVERYTHING": "true"}
    async with running_server(tmp_path, **settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=HANG_SECONDS, trust_env=False) as client:
            assert (await client.get("/api/v1/sessions")).status_code == 200
            created = await client.post("/api/v1/sessions", json={"session_id": "s"})
            assert created.headers["Location"] == "/api/v1/sessions/s"
            assert (await client.get("/claude/sessions")).status_code == 404
            for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
                assert (await client.get(f"/api/v1{path}")).status_code == 200, path
                assert (await client.get(path)).status_code == 404, path
        assert not (server.data_dir / "token").exists()
        assert "auth=none: who reaches this server may do everything" in together.log(server)


async def test_sandbox_required_does_not_start_without(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "PORTICO_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)}
    for value in ("required", "bubblewrap"):
        argv = [sys.executable, "-m", "portico", "serve", "--sandbox", value, "--port", "0"]
        with anyio.fail_after(HANG_SECONDS):
            done = await anyio.run_process(argv, env=environment, check=False, cwd=tmp_path)
        assert done.returncode == 1
        said = f"portico: sandbox={value}: there is no program bwrap (on Debian and Ubuntu, `apt install bubblewrap`)"
        assert said in done.stderr.decode()
    (tmp_path / "auto").mkdir()
    async with running_server(tmp_path / "auto", PATH=str(tmp_path)) as server:
        assert "agents are not in a sandbox (there is no program bwrap" in together.log(server)


async def test_max_streams_per_principal(tmp_path: Path) -> None:
    limits = {"PORTICO_MAX_STREAMS_PER_PRINCIPAL": "1", "PORTICO_DRIVER": "echo"}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        await client.open(session_id="s")
        async with client.http.stream("GET", "/sessions/s/events"):
            refused = await client.http.get("/sessions/s/events")
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
            async with talking(server.url, token=server.token) as third:
                assert (await third.closed())[0] == 4429


async def test_max_connections(tmp_path: Path) -> None:
    limits = {"PORTICO_MAX_CONNECTIONS": "1", "PORTICO_DRIVER": "echo"}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        await client.open(session_id="s")
        async with client.http.stream("GET", "/sessions/s/events"):
            refused = await client.http.get("/sessions")
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")


def with_tls(folder: Path) -> tuple[Certificates, dict[str, str]]:
    certificates = Certificates(folder)
    cert, key = certificates.issue()
    return certificates, {"PORTICO_TLS_CERT": str(cert), "PORTICO_TLS_KEY": str(key), "PORTICO_DRIVER": "echo"}


async def test_tls_cert_is_what_clients_see_and_tls_key_is_read_again_at_sighup(tmp_path: Path) -> None:
    certificates, variables = with_tls(tmp_path)
    cert, key = Path(variables["PORTICO_TLS_CERT"]), Path(variables["PORTICO_TLS_KEY"])
    async with running_server(tmp_path, **variables) as server:
        assert server.url.startswith("https://127.0.0.1:")
        asks = ("ask", "--session", "s", "hello", "--token", server.token)
        by_name = ("--server", server.url, "--cafile", str(certificates.cafile))
        for trust in (("--data-dir", str(server.data_dir)), by_name):
            done = await portico(tmp_path, *asks, *trust)
            assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
        stranger = await portico(tmp_path, *asks, "--server", server.url)
        assert stranger.returncode == 1 and b"can't prove who it is" in stranger.stderr

        def shown() -> str:
            return ssl.get_server_certificate(("127.0.0.1", httpx.URL(server.url).port or 0)).strip()

        async with httpx.AsyncClient(verify=certificates.client(), trust_env=False, timeout=HANG_SECONDS) as client:
            assert (await client.get(f"{server.url}/healthz")).status_code == 200
            old = await anyio.to_thread.run_sync(shown)
            certificates.issue()  # into the same files
            server.process.send_signal(signal.SIGHUP)
            with anyio.fail_after(HANG_SECONDS):
                while (new := await anyio.to_thread.run_sync(shown)) == old:
                    await anyio.sleep(0.1)
            assert new in cert.read_text()
            key.write_text("no key")
            server.process.send_signal(signal.SIGHUP)
            with anyio.fail_after(HANG_SECONDS):
                while "tls_cert stays as it was" not in together.log(server):
                    await anyio.sleep(0.05)
            assert await anyio.to_thread.run_sync(shown) == new
            assert (await client.get(f"{server.url}/healthz")).status_code == 200  # the old connection lives on
        assert "holds no private key" in together.log(server) and "Traceback" not in together.log(server)
    refused = await portico(tmp_path, "serve", "--tls-cert", str(cert), "--tls-key", str(key))
    assert refused.returncode == 1 and b"holds no private key" in refused.stderr


SHOWN_WITH_ANOTHER = {
    "uds_mode": "test_uds_group_and_uds_mode_let_a_proxy_in_and_no_stranger",
    "allowed_tools": "test_setting_sources_allowed_tools_and_disallowed_tools",
    "anthropic_base_url": "test_anthropic_api_key_claude_model_max_tokens_and_disallowed_tools_reach_the_model",
    "api_prefix": "test_auth_none_lets_everybody_in_and_api_prefix",
    "claude_model": "test_anthropic_api_key_claude_model_max_tokens_and_disallowed_tools_reach_the_model",
    "disallowed_tools": "test_anthropic_api_key_claude_model_max_tokens_and_disallowed_tools_reach_the_model",
    "drain_timeout": "test_max_processes_process_wait_and_drain_timeout",
    "log_level": "test_session_timeout_and_log_level",
    "max_queued_turns": "test_max_sessions_per_principal_and_max_turns_per_minute",
    "max_tokens": "test_anthropic_api_key_claude_model_max_tokens_and_disallowed_tools_reach_the_model",
    "max_turns_per_minute": "test_max_sessions_per_principal_and_max_turns_per_minute",
    "prefix_everything": "test_auth_none_lets_everybody_in_and_api_prefix",
    "pool_size": "test_key_gateway_off_hands_the_credential_to_the_agent",
    "port": "test_host_and_port",
    "process_wait": "test_max_processes_process_wait_and_drain_timeout",
    "retention_days": "test_retention_mb_and_retention_days_delete_what_is_too_much_or_too_old",
    "tls_key": "test_tls_cert_is_what_clients_see_and_tls_key_is_read_again_at_sighup",
}
"""Settings that the test of another one shows too, and that test."""

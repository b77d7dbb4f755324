"""Each check, where all is well, and where it is not."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from portico.cli.doctor import network_checks
from portico.cli.doctor.agent_checks import check_claude_program, check_containment, check_credentials, check_sandbox
from portico.cli.doctor.caller_checks import check_authenticators, check_exposure, check_tokens
from portico.cli.doctor.finding import Place
from portico.cli.doctor.folder_checks import check_audit_log, check_data_folder, check_lease, check_workspaces
from portico.cli.doctor.network_checks import check_address, check_pair, check_proxy, check_ziti
from portico.cli.doctor.plugin_checks import check_plugins
from portico.config.load import agent_environment, load
from portico.plugins.claude_code.containment import detect
from portico.plugins.manager import load_plugins
from tests.support.agents import real_cli
from tests.support.enrolled import identity, write
from tests.support.sandbox import working_sandbox, write_failing_bwrap

pytestmark = pytest.mark.anyio


class Places:
    """Makes places in ``folder``, with these settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, modules: tuple[str, ...] = (), path: str | None = None, **settings: str) -> Place:
        environ = {"PATH": path or os.environ["PATH"], "PORTICO_DATA_DIR": str(self.folder / "data")}
        environ |= {f"PORTICO_{name.upper()}": value for name, value in settings.items()}
        found = load_plugins(modules, folder=self.folder)
        loaded = load({}, environ, self.folder, plugins=found.registry.settings)
        return Place(loaded, found.registry, found.found, agent_environment(loaded.settings, environ))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "data").mkdir(mode=0o700)
    return Places(tmp_path)


async def test_plugins(places: Places) -> None:
    assert (await check_plugins(places())).state == "ok"
    (places.folder / "broken_plugin_of_a_test.py").write_text("1 / 0")
    broken = await check_plugins(places(("broken_plugin_of_a_test",)))
    assert broken.state == "warning" and "division by zero" in broken.text
    assert (await check_plugins(places(store="nowhere"))).state == "failure"
    assert (await check_plugins(places(driver="claude-code,nobody"))).state == "failure"


async def test_authenticators(places: Places) -> None:
    assert (await check_authenticators(places())).state == "ok"
    unset = await check_authenticators(places(auth="token,jwt"))
    assert unset.state == "failure" and "jwt_jwks" in unset.text
    assert (await check_authenticators(places(auth="nobody"))).state == "failure"


async def test_audit_log(places: Places, tmp_path: Path) -> None:
    for good in ("off", str(tmp_path / "audit.jsonl")):
        assert (await check_audit_log(places(audit_log=good))).state == "ok"
    for bad in (tmp_path, tmp_path / "none" / "audit.jsonl"):
        assert (await check_audit_log(places(audit_log=str(bad)))).state == "failure"
    assert not (tmp_path / "audit.jsonl").exists()


async def test_data_folder(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await check_data_folder(places())).state == "ok"
    assert (await check_data_folder(places(data_dir=str(tmp_path / "new" / "folder")))).state == "ok"
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    assert (await check_data_folder(places(data_dir=str(tmp_path / "file" / "x")))).state == "failure"
    assert (await check_data_folder(places(data_dir="/proc/portico"))).state == "failure"  # nobody can write there
    (tmp_path / "data").chmod(0o755)
    assert (await check_data_folder(places())).state == "warning"
    usage = namedtuple("usage", "total used free")
    for free, state in ((10 * 1024**2, "failure"), (100 * 1024**2, "warning")):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path, free=free: usage(1, 1, free))
            assert (await check_data_folder(places())).state == state
    (tmp_path / "data" / "format").write_text("1000000\n")
    newer = await check_data_folder(places())
    assert newer.state == "failure" and "newer version" in newer.text and "install that version" in str(newer.fix)


async def test_workspaces(places: Places, tmp_path: Path) -> None:
    assert (await check_workspaces(places())).state == "ok"
    assert (await check_workspaces(places(workspace_roots=str(tmp_path / "new")))).state == "ok"
    assert not (tmp_path / "new").exists() and not (tmp_path / "data" / "workspaces").exists()
    assert (await check_workspaces(places(workspace_roots=f"{tmp_path},{tmp_path}/none"))).state == "warning"
    (tmp_path / "root").mkdir()
    for planted in ("link", "file"):
        own = tmp_path / "root" / ".portico-workspaces"
        own.symlink_to(tmp_path) if planted == "link" else own.write_text("")
        found = await check_workspaces(places(workspace_roots=str(tmp_path / "root")))
        assert found.state == "failure" and str(own) in found.text and "move it away" in (found.fix or "")
        own.unlink()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # for everybody, as the folders of this test are not
        for sandbox_setting, state in (("auto", "warning"), ("required", "failure")):
            found = await check_workspaces(places(workspace_roots=name, sandbox=sandbox_setting))
            assert found.state == state and "setuid" in found.text and f"chmod 700 {name}" in (found.fix or "")
        (tmp_path / "root" / "link").symlink_to(name)
        found = await check_workspaces(places(workspace_roots=f"{tmp_path}/root,{tmp_path}/root/link"))
        assert found.state == "failure" and name in (found.fix or "")


async def test_lease(places: Places, tmp_path: Path) -> None:
    assert (await check_lease(places())).state == "ok"
    assert not (tmp_path / "data" / "lock").exists()
    (tmp_path / "data" / "lock").write_text("4711\n")
    with (tmp_path / "data" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = await check_lease(places())
    assert held.state == "warning" and "process 4711" in held.text


async def test_claude_program(places: Places, tmp_path: Path) -> None:
    real = await check_claude_program(places(claude_cli_path=str(real_cli())))
    assert real.state == "ok" and "is version 2." in real.text
    missing = await check_claude_program(places(claude_cli_path=str(tmp_path / "none")))
    assert missing.state == "failure" and "pip install" in missing.text
    (tmp_path / "claude").write_text("#!/bin/sh\necho 1.0.0")
    (tmp_path / "claude").chmod(0o755)
    assert (await check_claude_program(places(claude_cli_path=str(tmp_path / "claude")))).state == "failure"
    assert (await check_claude_program(places(claude_cli_path=str(tmp_path / "none"), driver="echo"))).state == "ok"


async def test_credentials(places: Places) -> None:
    assert (await check_credentials(places(anthropic_api_key="key"))).state == "ok"
    assert (await check_credentials(places())).state == "warning"
    assert (await check_credentials(places(driver="echo"))).state == "ok"


async def test_containment(places: Places, tmp_path: Path) -> None:
    best = await detect(os.environ["PATH"])
    assert (await check_containment(places())).state == ("warning" if best.name == "best-effort" else "ok")
    (tmp_path / "bin").mkdir()
    assert (await check_containment(places(path=str(tmp_path / "bin")))).state == "warning"


async def test_sandbox(places: Places, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    nothing: Any = {"path": str(tmp_path / "bin")}
    missing = await check_sandbox(places(**nothing))
    assert missing.state == "warning" and missing.fix is not None and "apt install bubblewrap" in missing.fix
    assert "other sessions' workspaces" in missing.text  # what the same user can read
    assert (await check_sandbox(places(**nothing, sandbox="required"))).state == "failure"
    assert (await check_sandbox(places(sandbox="none"))).state == "warning"
    await working_sandbox()
    assert (await check_sandbox(places(sandbox="required"))).state == "ok"
    (tmp_path / "root").mkdir()
    write_failing_bwrap(tmp_path / "bin" / "bwrap", tmp_path / "root", "no such luck")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    found = await check_sandbox(places(path=path, workspace_roots=str(tmp_path / "root")))
    assert found.state == "failure" and f"in {tmp_path}/root no agent would work" in found.text
    assert "no such luck" in found.text


async def test_address(places: Places, tmp_path: Path) -> None:
    assert (await check_address(places(port="0"))).state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert (await check_address(places(port=str(port)))).state == "failure"
        (tmp_path / "data" / "server.json").write_text(f'{{"url": "http://127.0.0.1:{port}"}}')
        (tmp_path / "data" / "lock").touch()
        with (tmp_path / "data" / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert (await check_address(places(port=str(port)))).state == "ok"  # by the server that is there
    assert (await check_address(places(uds=str(tmp_path / "socket")))).state == "ok"
    assert not (tmp_path / "socket").exists()
    assert (await check_address(places(uds=str(tmp_path / "none" / "socket")))).state == "failure"


async def test_tokens(places: Places, tmp_path: Path) -> None:
    assert (await check_tokens(places())).state == "ok"
    made = tmp_path / "data" / "token"
    made.write_text("a" * 43)
    made.chmod(0o600)
    assert (await check_tokens(places())).state == "ok"
    made.chmod(0o644)
    assert (await check_tokens(places())).state == "warning"
    made.write_text("")
    assert (await check_tokens(places())).state == "failure"
    assert (await check_tokens(places(auth_tokens=f"me:{'a' * 32}"))).state == "ok"
    short = await check_tokens(places(auth_tokens="me:guess"))
    assert short.state == "warning" and "guess" not in short.text.replace("guessed", "")
    (tmp_path / "tokens").write_text(f"me:{'a' * 32}")
    (tmp_path / "tokens").chmod(0o644)
    assert (await check_tokens(places(auth_tokens="@tokens"))).state == "warning"


async def test_exposure(places: Places) -> None:
    assert (await check_exposure(places())).state == "ok"
    assert (await check_exposure(places(auth="none"))).state == "warning"
    assert (await check_exposure(places(host="0.0.0.0"))).state == "warning"  # noqa: S104 - it listens nowhere


async def test_exposure_over_ziti_says_who_may_come_in_and_as_whom(places: Places, tmp_path: Path) -> None:
    file = write(tmp_path / "identity.json", identity())
    dark: Any = {"networking_mode": "ziti", "ziti_identity_file": str(file)}
    alone = await check_exposure(places(**dark, ziti_service_name="to-alice=alice,ops=ops:admin,public"))
    assert alone.state == "ok" and "127.0.0.1" not in alone.text
    for part in ("to-alice is alice, without a token", "ops is ops, an admin, without", "public shows a token"):
        assert part in alone.text
    trusting = await check_exposure(places(**dark, ziti_service_name="public", ziti_trust_caller="true"))
    assert "public is whoever they say" in trusting.text
    both = await check_exposure(places(**dark | {"networking_mode": "http,ziti"}, ziti_service_name="a=a", auth="none"))
    assert both.state == "warning" and "127.0.0.1" in both.text and "a is a, without a token" in both.text


async def test_proxy(places: Places) -> None:
    assert "the API is at /claude, the rest at /docs" in (await check_proxy(places())).text
    below = await check_proxy(places(root_path="/agents", prefix_everything="true"))
    assert "the API is at /agents/claude, the rest at /agents/claude/docs" in below.text
    trusted = await check_proxy(places(proxy_headers="true", trusted_proxies="10.0.0.1"))
    assert (trusted.state, "10.0.0.1/32 must write X-Forwarded-For" in trusted.text) == ("ok", True), trusted.text
    assert (await check_proxy(places(proxy_headers="true", trusted_proxies="0.0.0.0/0"))).state == "warning"


async def test_ziti(places: Places, tmp_path: Path) -> None:
    pytest.importorskip("openziti")
    assert (await check_ziti(places())).state == "ok"
    file = write(tmp_path / "identity.json", identity())
    wanted: Any = {"networking_mode": "ziti", "ziti_identity_file": str(file), "ziti_service_name": "portico"}
    assert (await check_ziti(places(**wanted))).state == "ok"
    assert (await check_ziti(places(**wanted, ziti_trust_caller="true"))).state == "warning"
    file.chmod(0o644)
    assert (await check_ziti(places(**wanted))).state == "failure"


async def test_ziti_without_its_library(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_checks, "find_spec", lambda name: None)
    wanted: Any = {"networking_mode": "ziti", "ziti_identity_file": "/i.json", "ziti_service_name": "portico"}
    missing = await check_ziti(places(**wanted))
    assert missing.state == "failure" and missing.fix == "pip install 'portico-server[ziti]'"


async def test_tls(tmp_path: Path) -> None:
    assert (await check_pair(None, None)).state == "ok"
    ours, others = identity()["id"], identity()["id"]
    for name, pem in (("cert", ours["cert"]), ("key", ours["key"]), ("other", others["key"])):
        (tmp_path / name).write_text(pem.removeprefix("pem:"))
    assert (await check_pair(tmp_path / "cert", tmp_path / "key")).state == "ok"
    assert (await check_pair(tmp_path / "cert", tmp_path / "other")).state == "failure"
    assert (await check_pair(tmp_path / "cert", tmp_path / "none")).state == "failure"

"""The folders and the environment of an agent."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from pydantic import SecretStr

from portico.config.settings import Settings
from portico.core.access import others_may_enter
from portico.core.agent import AgentOptions, AgentSpec
from portico.core.short import remove_short
from portico.gateway.door import AgentDoor
from portico.gateway.ledger import Ledger
from portico.gateway.model_gateway import ModelGateway
from portico.gateway.upstream import Upstream
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.environment import MAX_RUNTIME_DIR, build_environment, make_folders
from portico.plugins.context import Context


def spec(folder: Path, **options: str) -> AgentSpec:
    return AgentSpec("id", folder, folder / "work", AgentOptions(**options))  # type: ignore[arg-type]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_the_agents_own_and_may_be_made_twice() -> None:
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short, "agents", "a")
        for _ in range(2):
            assert make_folders(folder) == folder / "run"
        for name in ("home", "config", "tmp", "run", "."):
            assert mode(folder / name) == 0o700


def test_a_runtime_folder_with_too_long_a_path_is_made_elsewhere(tmp_path: Path) -> None:
    runtime = make_folders(tmp_path / ("x" * MAX_RUNTIME_DIR))
    try:
        assert tmp_path not in runtime.parents
        assert len(os.fsencode(runtime)) <= MAX_RUNTIME_DIR
        assert mode(runtime) == 0o700
        assert make_folders(tmp_path / ("x" * MAX_RUNTIME_DIR)) == runtime
        runtime.chmod(0o777)  # as an agent may do it, whose own it is
        assert others_may_enter(runtime) is False
    finally:
        remove_short(runtime)
    assert not runtime.parent.exists()


def test_a_runtime_folder_that_somebody_else_has_laid_out_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        folder = tmp_path / ("x" * MAX_RUNTIME_DIR)
        first = make_folders(folder)
        first.rmdir()
        first.symlink_to(tmp_path)
        second = make_folders(folder)
        assert second != first and mode(second) == 0o700
        shutil.rmtree(first.parent)
        first.parent.symlink_to(tmp_path)
        third = make_folders(folder)
        assert third.parent != first.parent and mode(third) == 0o700
        assert first.parent.is_symlink() and os.listdir(tmp_path) == [folder.name]


def test_what_an_agent_has_put_in_the_place_of_its_folders_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short, "agents", "a")
        make_folders(folder)
        shutil.rmtree(folder)
        folder.symlink_to(outside)
        make_folders(folder)
        assert not folder.is_symlink()
        for name in ("home", "config"):
            (folder / name).rmdir()
        (folder / "home").symlink_to(outside)
        (folder / "config").write_text("")
        (folder / "tmp").chmod(0)
        make_folders(folder)
        assert all(mode(folder / name) == 0o700 for name in ("home", "config", "tmp", "run"))
    assert mode(outside) == 0o755 and os.listdir(outside) == []


def test_the_environment_is_what_is_given_and_nothing_else(tmp_path: Path) -> None:
    config = DriverConfig(
        agents=tmp_path,
        environment={"PATH": "/bin", "HTTPS_PROXY": "p", "HOME": "/root"},
        api_key="key",
        oauth_token="token",
        base_url="http://127.0.0.1:1",
        max_tokens=99,
    )
    assert build_environment(config, spec(tmp_path), tmp_path / "run") == {
        "PATH": "/bin",
        "HTTPS_PROXY": "p",
        "HOME": f"{tmp_path}/home",
        "CLAUDE_CONFIG_DIR": f"{tmp_path}/config",
        "TMPDIR": f"{tmp_path}/tmp",
        "CLAUDE_CODE_TMPDIR": f"{tmp_path}/tmp",
        "XDG_RUNTIME_DIR": f"{tmp_path}/run",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING": "1",
        "ANTHROPIC_API_KEY": "key",
        "CLAUDE_CODE_OAUTH_TOKEN": "token",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "99",
        "CLAUDE_CODE_FORWARD_SUBAGENT_TEXT": "1",
    }
    assert "key" not in repr(config) and "token=" not in repr(config).replace("max_tokens=", "")


def test_the_settings_reach_the_driver(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        anthropic_api_key=SecretStr("key"),
        claude_code_oauth_token=SecretStr("token"),
        anthropic_base_url="http://127.0.0.1:1",
        claude_model="m",
        max_tokens=77,
        claude_cli_path=Path("/opt/claude"),
    )
    config = DriverConfig.from_context(
        Context(settings, tmp_path, {"PATH": "/p", "TZ": "UTC"}, settings_files=(Path("/.env"),))
    )
    assert config == DriverConfig(
        agents=tmp_path / "agents",
        environment={"PATH": "/p", "TZ": "UTC"},
        api_key="key",
        oauth_token="token",
        base_url="http://127.0.0.1:1",
        model="m",
        max_tokens=77,
        cli_path=Path("/opt/claude"),
        sandbox="auto",
        hidden=(tmp_path, tmp_path / "agents", tmp_path / "workspaces", Path("/.env")),
        roots=(tmp_path / "workspaces",),
        permission_modes=frozenset({"default", "acceptEdits", "plan", "dontAsk"}),
    )


@pytest.mark.parametrize(
    ("uid", "permission_mode", "expected"),
    [(0, "bypassPermissions", True), (0, "default", False), (1000, "bypassPermissions", False)],
)
def test_the_sandbox_is_only_claimed_where_the_cli_insists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, permission_mode: str, expected: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    environment = build_environment(
        DriverConfig(agents=tmp_path), spec(tmp_path, permission_mode=permission_mode), tmp_path
    )
    assert ("IS_SANDBOX" in environment) is expected


def test_with_a_door_no_credential_is_left(tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "ANTHROPIC_API_KEY": "named", "ANTHROPIC_AUTH_TOKEN": "named", "OTHER": "kept"}
    config = DriverConfig(agents=tmp_path, environment=environment, api_key="key", base_url="http://127.0.0.1:1")
    upstream = Upstream("http://127.0.0.1:1", api_key="key")
    ledger = Ledger(tmp_path / "spending.json", None)
    environment = ModelGateway(upstream, ledger).environment(tmp_path / "api.sock")
    door = AgentDoor(tmp_path / "api.sock", None, environment, set(), ledger.account("a"))
    found = build_environment(config, spec(tmp_path), tmp_path, door)
    assert not {"key", "named"} & set(found.values())
    assert found["ANTHROPIC_UNIX_SOCKET"] == str(tmp_path / "api.sock") and found["OTHER"] == "kept"

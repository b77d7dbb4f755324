"""Reverse proxies as Debian and PyPI have them, each with its file of `deploy/` in front of a real server."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compat.outside import Missing, debian
from compat.proxied import CLIENT
from compat.proxy_kinds import DEPLOY, INSIDE, OURS, PREFIX, PROXIES
from portico.config.settings import Settings

ROOT = Path(__file__).parents[2]
SECONDS = 600
FLOOR_MS = 80.0
"""Lateness that a busy machine may cause. A proxy that holds events back takes 200 ms for each and more."""

WANTED = {
    "trouble": "",
    "websocket": {"plain": "works", "v1": "works"},
    "silence": {"sse": "lives", "plain": "works", "v1": "works"},
    "body": "202",
    "url": "200",
    "own_origin": "202",
    "foreign_origin": "403 origin_not_allowed",
    "address": CLIENT,
    "logged": [],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Measure all proxies at once: the first who asks does it, for all workers of this run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "proxies.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = shared / "proxies.json"
        if not kept.exists():
            argv = [sys.executable, "-m", "compat.proxies", "--configuration", OURS, "--configuration", INSIDE]
            done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS)
            assert done.returncode == 0, done.stderr
            kept.write_text(done.stdout)
        found: dict[str, Any] = json.loads(kept.read_text())
        return found


@pytest.mark.long
@pytest.mark.real_cli
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("name", [proxy.name for proxy in PROXIES])
def test_a_proxy_with_its_file_of_deploy_is_in_nobodys_way(measured: dict[str, Any], name: str) -> None:
    for reason in measured["missing"]:
        if reason.startswith(f"{name}:"):
            pytest.skip(reason)
    rows = [facts for facts in measured["facts"] if facts["proxy"] == name]
    assert [facts["configuration"] for facts in rows] == [OURS, INSIDE]
    for facts in rows:
        assert {key: facts[key] for key in WANTED} == WANTED, facts
        prefix = PREFIX if facts["configuration"] == INSIDE else ""
        assert re.fullmatch(rf"{prefix}/claude/sessions/r\d+", facts["location"]), facts
        assert re.fullmatch(r"[\d.]+ s", facts["gone"]), f"a client that hangs up is noticed {facts['gone']}"
        late, direct = facts["late"], facts["direct"]
        assert isinstance(late, dict) and late["events"] > 50, facts
        assert late["p99"] <= max(2 * direct["p99"], FLOOR_MS), facts
    assert (measured["streams"], measured["warnings"]) == (0, [])


def test_a_program_that_can_not_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="no program nonesuch, and no apt-get"):
        debian("nonesuch", ["nonesuch"], tmp_path)


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*")), ids=lambda path: path.name)
def test_the_settings_that_a_file_of_deploy_asks_for_exist(path: Path) -> None:
    options = {word.replace("-", "_") for word in re.findall(r"--([a-z-]+)", " ".join(served(path.read_text())))}
    assert options <= set(Settings.model_fields)


def served(text: str) -> list[str]:
    """Return what is behind `portico serve` in a text, line by line."""
    return re.findall(r"portico serve ([^)\n]*)", text)

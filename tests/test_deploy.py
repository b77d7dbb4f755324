"""The files of deploy/: each is taken by the program that it is for."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from sysconfig import get_path

import anyio
import httpx
import psutil
import pytest

from portico.plugins.claude_code.cgroup import own_cgroup
from tests.support.agents import real_cli
from tests.support.first import CONTAINER, needs_container
from tests.support.limits import HANG_SECONDS
from tests.support.programs import needs
from tests.support.server import ROOT, server_of

DEPLOY = ROOT / "deploy"
PROGRAM = "/opt/portico/bin/portico"


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    given = {"capture_output": True, "text": True, "timeout": HANG_SECONDS, **options}
    return subprocess.run(list(map(str, command)), **given)  # type: ignore[call-overload,no-any-return]


@needs("systemd-analyze")
def test_the_units_are_without_fault(tmp_path: Path) -> None:
    program = tmp_path / "portico"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("portico.service", "portico.socket"):
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace(PROGRAM, str(program)))
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / "portico.service", tmp_path / "portico.socket")
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "portico" in line]
    assert (done.returncode, ours) == (0, [])


@needs("systemd-analyze")
def test_the_unit_exposes_little(tmp_path: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=40", DEPLOY / "portico.service")
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze security is older than 250 and can't look at a file")
    assert done.returncode == 0, done.stdout + done.stderr


def has_compose() -> bool:
    try:
        return run("docker", "compose", "version").returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not has_compose(), reason="there is no docker compose here")
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.sandbox.yaml"]])
def test_the_compose_files_are_taken(files: list[str]) -> None:
    options = [word for name in files for word in ("-f", str(DEPLOY / name))]
    env = {"PATH": os.environ["PATH"], "ANTHROPIC_API_KEY": "x"}
    done = run("docker", "compose", *options, "config", "--format", "json", env=env)
    assert done.returncode == 0, done.stderr
    service = json.loads(done.stdout)["services"]["portico"]
    assert service["read_only"] and service["user"] == "10001:10001" and service["cap_drop"] == ["ALL"]


@pytest.mark.long
@pytest.mark.real_cli
@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists() or shutil.which("bwrap") is None,
    reason="only root with systemd and bubblewrap can boot a systemd of its own",
)
def test_the_units_work_and_leave_agents_their_sandbox(tmp_path: Path) -> None:
    real_cli()
    own = own_cgroup()
    if own is None:
        pytest.skip("there are no control groups of version 2 here")
    group = own / f"portico-test-{os.getpid()}"
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    support = ROOT / "tests" / "support"
    words = (ROOT, tmp_path, group, support / "systemd_probe.sh", sys.base_prefix, get_path("purelib"), python)
    try:
        done = run("sh", support / "own_systemd.sh", *words)
    finally:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    if done.returncode == 77:
        pytest.skip(f"this machine boots no systemd of its own: {done.stderr.splitlines()[-1:]}")
    said = (tmp_path / "out" / "said").read_text()
    assert "the end\n" in said, said + done.stdout + done.stderr
    for expected in (
        "started\nStatusText=serving on http://127.0.0.1:8787\n",
        "agents are contained by bubblewrap",
        "covers on proc: 0\n",
        "reloaded, active\nResult=success\nExecMainStatus=0\n",
        "before the first connection: inactive\n",
        'answer: {"status":"ok"}',
        "NRestarts=0\nExecMainStatus=2\n",
        "You said",
    ):
        assert expected in said, said
    assert said.count("answer:") == 2, said
    assert re.search(r"srw-rw---- 1 root portico .* /run/portico/portico.sock", said)


def image() -> dict[str, str]:
    """Return the last instruction of each kind in the Dockerfile, by its word; continued lines are joined."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


@pytest.mark.anyio
@needs_container
async def test_the_images_entry_point_serves_as_process_1_and_stops_in_order(tmp_path: Path) -> None:
    given = image()
    assert int(given["USER"].split(":")[0]) > 0
    variables = dict(word.split("=", 1) for word in shlex.split(given["ENV"]))
    assert variables.pop("PATH").startswith("/opt/portico/bin:")
    assert variables.pop("PORTICO_DATA_DIR") == given["VOLUME"] == "/data"
    command = json.loads(given["ENTRYPOINT"]) + json.loads(given["CMD"])
    assert command == ["portico", "serve"]  # as `server_of` starts it
    async with server_of(CONTAINER, (), tmp_path, "--driver", "echo", **variables) as server:
        port = httpx.URL(server.url).port
        check = json.loads(given["HEALTHCHECK"].partition("CMD ")[2])[1:]
        healthy = run(sys.executable, *(word.replace("8787", str(port)) for word in check))
        assert healthy.returncode == 0, healthy.stderr
        (first,) = psutil.Process(server.process.pid).children()
        assert b"init_process" in Path("/proc", str(first.pid), "cmdline").read_bytes()
        first.send_signal(getattr(signal, given["STOPSIGNAL"]))
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0


def test_the_image_is_built_of_what_is_let_into_it(tmp_path: Path) -> None:
    let = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {*packages, "pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    constraints = re.findall(r"-c /src/(\S+)", (DEPLOY / "Dockerfile").read_text())
    assert {*let} == {*needed, *constraints}
    assert all((ROOT / name).exists() for name in let)


@pytest.mark.long
def test_a_package_is_made_of_it(tmp_path: Path) -> None:
    """Only this asks a registry, for what builds the package."""
    source = tmp_path / "source"
    source.mkdir()
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines():
        if line.startswith("!"):
            place = ROOT / line[1:]
            (shutil.copytree if place.is_dir() else shutil.copy)(place, source / line[1:])
    try:
        done = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path / "made", source)
    except subprocess.TimeoutExpired:
        pytest.skip("pip can't get hatchling here in time")
    if "hatchling" in done.stderr and done.returncode:
        pytest.skip("pip can't get hatchling here")
    assert done.returncode == 0, done.stderr
    assert next((tmp_path / "made").iterdir()).name.startswith("portico_server-")

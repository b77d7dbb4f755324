"""The commands of `docs/ziti.md` work as printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from portico.cli.commands import commands
from tests.support.agents import gone_soon
from tests.support.limits import HANG_SECONDS
from tests.support.server import ROOT, environment
from tests.support.sight import SEES_SERVERS
from tests.ziti.network import Network
from tests.ziti.setups import forget_setup

PAGE = ROOT / "docs" / "ziti.md"
LINES = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)).replace("\\\n", "").splitlines()
OURS = [line for line in LINES if line.startswith("portico ")]


def test_there_are_lines_to_check() -> None:
    assert len(OURS) >= 8


@pytest.mark.parametrize("line", OURS)
def test_every_command_and_option_exists(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Options are looked at before any of them acts.
    assert commands.main([*shlex.split(line)[1:], "--help"], standalone_mode=False) == 0
    assert capsys.readouterr().out.startswith("Usage: ")


def test_the_messages_that_it_explains_are_ours() -> None:
    code = "".join(
        path.read_text() for folder in ("ziti", "client") for path in (ROOT / "portico" / folder).rglob("*.py")
    )
    messages = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text().split("it says | look at")[1], re.MULTILINE)
    assert len(messages) == 5
    for message in messages:
        for part in message.split(" ... "):
            assert re.sub(r"\d+ seconds", "", part).strip() in code


def test_the_walk_on_a_real_network(network: Network, tmp_path: Path) -> None:
    """From the second step on, with agents that only echo."""
    walk = [line for line in OURS if "ops" not in line and "staff" not in line]
    text = "\n".join(line for line in walk if not re.match("portico (serve|chat|ask|sessions)", line))
    (serve,) = (line for line in walk if line.startswith("portico serve"))
    talk = "\n".join(line for line in walk if re.match("portico (ask|sessions)", line))
    setup = f'portico() {{ {sys.executable} -m portico "$@"; }}\n'
    env = environment(tmp_path, ZITI_PWD=network.password, TMPDIR=str(tmp_path))

    def bash(lines: str) -> str:
        lines = lines.replace("https://127.0.0.1:1280", network.url)
        lines = lines.replace("~/ziti/pki/root-ca/certs/root-ca.cert", str(network.ca))
        return subprocess.check_output(
            ["bash", "-euc", setup + lines], cwd=tmp_path, env=env, text=True, timeout=HANG_SECONDS
        )

    try:
        bash(text)
        options = shlex.split(f"--driver echo --store memory --data-dir {tmp_path / 'data'}")
        argv = [sys.executable, "-um", *shlex.split(serve), *options]
        with subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == "Portico is ready on ziti:portico-alice\n"
                children = psutil.Process(server.pid).children(recursive=True)
                assert not [
                    c
                    for p in [*children, *([psutil.Process(server.pid)] if SEES_SERVERS else [])]
                    for c in p.net_connections("tcp")
                    if c.status == "LISTEN"
                ]
                assert bash(talk).startswith("What is 2 + 2?\n")
                server.terminate()
                assert server.wait(HANG_SECONDS) == 0
                assert gone_soon(children)
            finally:
                server.kill()
    finally:
        forget_setup(network)

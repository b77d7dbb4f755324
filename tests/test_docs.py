"""What the documentation says is so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.settings_page import page
from tests.support.server import running_server
from tests.support.talk import script, talk

ROOT = Path(__file__).parent.parent


def test_the_page_of_settings_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), "python -m tests.settings_page > docs/settings.md"


@pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_no_link_leads_nowhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_command_is_named_in_the_readme_or_in_its_help() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "portico", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in re.findall(r"`portico (\w+)", (ROOT / "README.md").read_text()):
        assert f"  {command} " in text


def blocks(heading: str) -> list[str]:
    section = (ROOT / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


@pytest.mark.anyio
@pytest.mark.real_cli
async def test_the_first_session_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    start, create_and_query, resume, allow = blocks("A first session")
    assert ".venv/bin/portico serve" in start
    async with running_server(tmp_path) as server, talk(server) as client:

        async def bash(text: str) -> str:
            text = text.replace("http://127.0.0.1:8787", server.url).replace(
                ".venv/bin/portico", f"{sys.executable} -m portico"
            )
            with anyio.fail_after(60):
                done = await anyio.run_process(["bash", "-euc", text], env=server.client_env, stderr=None)
            return done.stdout.decode()

        setup = create_and_query.split("\n\n")[0] + "\n"
        streamed = await bash(create_and_query)
        assert '"state":"idle"' in streamed and '"type":"complete"' in streamed and '"turn_id":"t1"' in streamed
        following = resume.replace("curl -N", "timeout 2 curl -N") + "true"
        assert "\nid: 6\n" in await bash(setup + following.replace("events\n", "events || "))
        target = Path((await client.session("first"))["cwd"]) / "file.txt"
        tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
        await client.start("first", script({"tool": tool}, {"say": "done"}))
        request = await client.until("first", "permission_request")
        await bash(setup + allow.replace("REQUEST_ID", request["request_id"]))
        await client.until("first", "complete", after=request["seq"])
        assert target.read_text() == "x"


@pytest.mark.anyio
@pytest.mark.real_cli
async def test_the_demo_shows_a_turn_and_a_curl_line_that_works(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-u", "-m", "portico", "demo"]
    async with await anyio.open_process(argv, env=environment, cwd=tmp_path, stderr=None) as demo:
        assert demo.stdout is not None
        said = ""
        with anyio.fail_after(60):
            while "Ctrl-C" not in said:
                said += (await demo.stdout.receive()).decode()
            assert "scripted model" in said
            (curl,) = re.findall(r"(curl .*?')\n\n", said, re.DOTALL)
            done = await anyio.run_process(["bash", "-euc", curl], stderr=None)
            assert '"type":"complete"' in done.stdout.decode()
            demo.send_signal(signal.SIGINT)
            assert await demo.wait() == 0
    assert os.listdir(tmp_path) == []

"""The documentation tells the truth."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

import portico
from portico.plugins import hookspecs
from tests.settings_page import page
from tests.support.limits import HANG_SECONDS
from tests.support.programs import needs
from tests.support.server import running_server

ROOT = Path(__file__).parent.parent


def test_the_page_of_settings_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), "python -m tests.settings_page > docs/settings.md"


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_leads_nowhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
    examples = re.findall(r"`(examples/[\w-]+)`", path.read_text())  # the pages of `make docs` can't link to these
    assert [example for example in examples if not (ROOT / example).exists()] == []


SHOWN = [
    ROOT / "SECURITY.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("guarantees", "owners", "security-isolation")),
]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_every_test_that_is_said_to_show_something_exists(path: Path) -> None:
    """A row names a file of tests, and behind it tests in it; or a file alone."""
    known = None
    named = re.findall(r"`([\w/-]+\.py)`|`(test_\w+)`", path.read_text())
    assert named
    for file, test in named:
        if file:
            known = (ROOT / ("" if file.startswith("examples/") else "tests") / file).read_text()
        else:
            assert known is not None and f"def {test}(" in known, test


def test_every_command_is_named_in_the_readme_or_in_its_help() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "portico", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in re.findall(r"`portico (\w+)", (ROOT / "README.md").read_text()):
        assert f"  {command} " in text


PLUGINS = ROOT / "docs" / "plugins.md"


def test_every_hook_has_its_row_in_the_page_of_plugins() -> None:
    rows = dict(re.findall(r"^\| `(portico_\w+)` \|(.*)$", PLUGINS.read_text(), re.MULTILINE))
    hooks = {name for name in vars(hookspecs) if name.startswith("portico_")}
    assert set(rows) == hooks
    assert all(len(list(filter(str.strip, row.split("|")))) == 3 for row in rows.values()), "offers, fires, fails"


def test_all_that_outsiders_import_is_in_the_page_of_plugins() -> None:
    text, testing = PLUGINS.read_text(), ROOT / "portico" / "testing" / "__init__.py"
    suites = re.findall(r'^    "(\w*(?:Conformance|Driver|engine|model))",$', testing.read_text(), re.MULTILINE)
    names = {*portico.__all__, *suites} - {"__version__"}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


@pytest.mark.anyio
async def test_the_transport_of_the_page_of_plugins_works_as_printed(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PLUGINS.read_text(), re.DOTALL)
    write, try_it = re.findall(r"```sh\n(.*?)```", PLUGINS.read_text(), re.DOTALL)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    portico_command = f"{sys.executable} -m portico"
    done = await anyio.run_process(
        ["bash", "-euc", write.replace("portico plugin", f"{portico_command} plugin")], env=environment, cwd=tmp_path
    )
    assert b"Made portico-pigeon" in done.stdout
    package = tmp_path / "portico-pigeon"
    test, serve = try_it.splitlines()
    assert test == "python -m pytest"  # what it does is tests/plugins/test_scaffold.py's to show
    (package / "portico_pigeon.py").write_text(code)
    for checker in (["mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache")], ["ruff", "check", "--no-cache"]):
        check = [sys.executable, "-m", *checker, "portico_pigeon.py"]
        await anyio.run_process(check, env={**environment, "MYPYPATH": str(ROOT)}, cwd=package, stderr=None)
    options = f" --driver echo --store memory --port 0 --data-dir {tmp_path / 'data'}"
    argv = (serve.replace("portico serve", f"{portico_command} serve") + options).split()
    async with await anyio.open_process(argv, env=environment, cwd=package, stderr=subprocess.STDOUT) as server:
        try:
            assert server.stdout is not None
            (port,) = re.findall(
                r"ready on pigeon://127.0.0.1:(\d+)\n", await said(server, "ready on pigeon://127.0.0.1:")
            )
            async with await anyio.connect_tcp("127.0.0.1", int(port)) as client:
                await client.send((tmp_path / "data" / "token").read_bytes().strip() + b"\nhello\n")
                told = b""
                with anyio.fail_after(HANG_SECONDS):
                    while b'"complete"' not in told:
                        told += await client.receive()
                assert b'"content":"hello"' in told
            async with await anyio.connect_tcp("127.0.0.1", int(port)) as stranger:
                await stranger.send(b"wrong\n")
                with anyio.fail_after(HANG_SECONDS):
                    assert (await stranger.receive()).startswith(b"unauthenticated: ")
            server.send_signal(signal.SIGTERM)
            with anyio.fail_after(HANG_SECONDS):
                assert await server.wait() == 0
        finally:
            if server.returncode is None:
                server.kill()


def blocks(heading: str) -> list[str]:
    section = (ROOT / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


class Bash:
    """Runs lines of the README; its variables stay. ``.venv/bin/portico`` is this program."""

    def __init__(self, setup: str, env: dict[str, str]) -> None:
        self._setup = setup
        self._env = env

    async def __call__(self, text: str) -> str:
        text = (self._setup + text).replace(".venv/bin/portico", f"{sys.executable} -m portico")
        with anyio.fail_after(HANG_SECONDS):
            done = await anyio.run_process(["bash", "-euc", text], env=self._env, stderr=None)
        return done.stdout.decode()

    async def once(self) -> Bash:
        """The same, with what the lines so far have set: they start the program, which takes a while."""
        values = await self('for name in TOKEN API; do echo "$name=${!name}"; done')
        return Bash(values, self._env)


def fields(streamed: str) -> list[str]:
    """The lines of a stream's events."""
    return [line for line in streamed.splitlines() if line.startswith(("data: ", "id: "))]


async def follow_the_readme(bash: Bash) -> None:
    """All of "A first session" that is not the start of a server."""
    _, _, create_and_query, resume, ask_leave, allow, close = blocks("A first session")
    streamed = await bash(create_and_query)
    assert '"state":"idle"' in streamed and '"type":"complete"' in streamed and '"turn_id":"t1"' in streamed
    again = await bash(create_and_query.split("\n\n")[1])
    assert fields(again) == fields(streamed), "a known turn_id shows its turn again"
    assert await bash(f"grep -m 1 '^id: 6$' < <({resume.strip()})") == "id: 6\n"  # the stream itself does not end
    turn = ""

    async def watch() -> None:
        nonlocal turn
        turn = await bash(ask_leave)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        with anyio.fail_after(HANG_SECONDS):
            while not (asked := re.findall(r'"request_id":"([^"]+)"', await bash("curl -sS -H " + LISTING))):
                await anyio.sleep(0.1)
        await bash(allow.replace("REQUEST_ID", asked[0]))
    assert '"type":"permission_request"' in turn and f'"request_id":"{asked[0]}"' in turn
    assert '"behavior":"allow"' in turn and '"stop_reason":"end_turn"' in turn
    listed, closed, purged = close.splitlines()
    assert '"state":"idle"' in await bash(listed)
    await bash(closed)
    assert '"state":"closed"' in await bash(listed)
    await bash(purged)
    assert '"session_id":"first"' not in await bash(listed)


LISTING = '"Authorization: Bearer $TOKEN" $API/sessions/first'


@pytest.mark.anyio
@pytest.mark.real_cli
@needs("curl")
async def test_the_first_session_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    start, setup, *_ = blocks("A first session")
    assert ".venv/bin/portico serve" in start
    async with running_server(tmp_path) as server:
        bash = await Bash(setup.replace("http://127.0.0.1:8787", server.url), server.client_env).once()
        await follow_the_readme(bash)
        for line in blocks("On the command line")[0].splitlines():
            command, id_of = line.split("#")[0], '{"session_id": "ID"}'
            if "ID" in command and "ID" not in await bash("curl -sS -H " + LISTING.replace("/first", "")):
                json = "-H 'Content-Type: application/json'"
                await bash(f"curl -sS -H {LISTING.replace('/first', '')} {json} -d '{id_of}'")
            await bash(command + " </dev/null")
        assert (await bash(".venv/bin/portico sessions --all")).split()[6:8] == ["ID", "closed"]


@pytest.mark.anyio
@pytest.mark.real_cli
@needs("curl")
async def test_a_session_of_the_readme_works_in_a_project(tmp_path: Path) -> None:
    start, create = blocks("Where it works, and where things are")
    assert start.startswith("PORTICO_WORKSPACE_ROOTS=$HOME/projects ")
    project = tmp_path / "home" / "projects" / "mine"
    async with running_server(tmp_path, PORTICO_WORKSPACE_ROOTS=str(project.parent)) as server:
        project.mkdir(parents=True)
        setup = blocks("A first session")[1].replace("http://127.0.0.1:8787", server.url)
        assert f'"cwd":"{project}"' in await Bash(setup, server.client_env)(create)


@asynccontextmanager
async def running_demo(folder: Path, *options: str) -> AsyncIterator[Process]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-u", "-m", "portico", "demo", *options]
    async with await anyio.open_process(argv, env=environment, cwd=folder, stderr=subprocess.STDOUT) as demo:
        try:
            yield demo
        finally:
            if demo.returncode is None:
                demo.kill()


async def said(demo: Process, text: str) -> str:
    """Return the demo's output up to ``text``, and the match."""
    assert demo.stdout is not None
    found = ""
    with anyio.fail_after(HANG_SECONDS):
        while text not in found:
            found += (await demo.stdout.receive()).decode()
    return found


@pytest.mark.anyio
@pytest.mark.real_cli
@needs("curl")
@pytest.mark.parametrize("options", [[], pytest.param(["--uds", "socket"], marks=pytest.mark.long)])
async def test_the_demo_shows_a_turn_and_lines_that_work(tmp_path: Path, options: list[str]) -> None:
    async with running_demo(tmp_path, *options) as demo:
        text = await said(demo, "Ctrl-C")
        assert "scripted model" in text
        (curl,) = re.findall(r"(curl .*?')\n\n", text, re.DOTALL)
        done = await anyio.run_process(["bash", "-euc", curl], stderr=None)
        assert '"type":"complete"' in done.stdout.decode()
        (chat,) = re.findall(r"(\S+ -m portico chat --server .* --token .* demo)\n", text)
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        with anyio.fail_after(HANG_SECONDS):
            done = await anyio.run_process(["bash", "-euc", chat], input=b"hello\n", env=env, stderr=None)
        assert done.stdout.decode().splitlines()[-1].startswith('You said: "hello"')
        if not options:  # the first session of the README works with the demo too
            (token,), (api,) = re.findall(r"Bearer (\S+)'", text), re.findall(r"'(http:.*)/stream", text)
            await follow_the_readme(Bash(f"TOKEN={token}\nAPI={api}\n", {"PATH": os.environ["PATH"]}))
        demo.send_signal(signal.SIGINT)
        assert await demo.wait() == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.anyio
async def test_a_demo_with_a_data_folder_goes_on_with_what_is_in_it(tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path / "data"), "--driver", "echo"]
    for says, session in (
        ("Asking its first", "demo"),
        ("It goes on with", "demo"),
        ("Asking its first", "[0-9a-f]{32}"),
    ):
        async with running_demo(tmp_path, *options) as demo:
            text = await said(demo, "Ctrl-C")
            (chat,) = re.findall(r"(\S+ -m portico) chat (--server .* --token .*) (\S+)\n", text)
            assert says in text and re.fullmatch(session, chat[2])
            if says == "It goes on with":
                close = f"{chat[0]} sessions close {chat[1]} {chat[2]}"
                env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
                await anyio.run_process(["bash", "-euc", close], env=env, stderr=None)
            demo.send_signal(signal.SIGINT)
            assert await demo.wait() == 0


@pytest.mark.anyio
@pytest.mark.real_cli
async def test_ctrl_c_in_the_first_question_of_the_demo_ends_it(tmp_path: Path) -> None:
    async with running_demo(tmp_path) as demo:
        assert demo.stdout is not None
        text = await said(demo, "Asking its first session")
        demo.send_signal(signal.SIGINT)
        with anyio.fail_after(HANG_SECONDS):
            text += b"".join([data async for data in demo.stdout]).decode()
            assert await demo.wait() == 0
    assert "curl" not in text and "Traceback" not in text
    assert os.listdir(tmp_path) == []

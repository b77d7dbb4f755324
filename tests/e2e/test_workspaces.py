"""The folders of sessions: nothing that an agent plants there leads the server, or another agent, elsewhere."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import httpx
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.sandbox import working_sandbox, write_failing_bwrap
from tests.support.sdk import SDK_DRIVER
from tests.support.server import RunningServer, environment, running_server
from tests.support.talk import Talk, only, script, talk

pytestmark = pytest.mark.anyio

OWN = ".portico-workspaces"
NOBODY = 65534
real_cli = pytest.mark.real_cli
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
TOOLS = {"PORTICO_ALLOWED_TOOLS": "Bash", "PORTICO_SANDBOX": "required"}
ECHO = {"PORTICO_DRIVER": "echo"}


async def tool(client: Talk, session_id: str, command: str) -> str:
    """Return the output of a Bash tool."""
    turn = await client.turn(
        session_id, script({"tool": {"name": "Bash", "input": {"command": command}}}, {"say": "x"})
    )
    return str(only(turn, "tool_result")["content"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def log(server: RunningServer) -> str:
    return (server.home.parent / "server.log").read_text()


async def refused(client: Talk, **body: str) -> tuple[int, str]:
    answer = await client.http.post("/sessions", json=body)
    return answer.status_code, answer.json()["code"]


async def serve(folder: Path, **variables: str) -> CompletedProcess[bytes]:
    """A server that is expected not to start."""
    settings = {"PORTICO_PORT": "0", "PORTICO_DATA_DIR": str(folder / "data"), **ECHO}
    argv = [sys.executable, "-m", "portico", "serve"]
    with anyio.fail_after(HANG_SECONDS):
        return await anyio.run_process(
            argv, env=environment(folder, **(settings | variables)), cwd=folder, check=False, stderr=subprocess.STDOUT
        )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as tests' own folders are none."""
    with tempfile.TemporaryDirectory(prefix="portico-open-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def as_nobody(*command: str) -> CompletedProcess[bytes]:
    # By a shell: setpriv itself looks for its program with root's rights.
    argv = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "sh", "-c", 'exec "$@"', "sh"]
    return await anyio.run_process([*argv, *command], check=False, stderr=subprocess.STDOUT)


ATTACKS = """
cd %(root)s
ls -A %(own)s
cat %(own)s/*/notes
mv %(own)s elsewhere
rmdir %(own)s
ln -s %(outside)s %(own)s
chmod 777 %(own)s
touch %(own)s/planted
mv %(holder)s %(holder)s-was
echo done
"""


@real_cli
@pytest.mark.parametrize(
    ("driver", "pool"),
    [
        ("claude-code", "0"),
        pytest.param("claude-code", "1", marks=pytest.mark.long),
        pytest.param("claude-agent-sdk", "0", marks=pytest.mark.long),
    ],
)
async def test_who_works_above_the_servers_workspaces_neither_sees_nor_moves_them(
    tmp_path: Path, driver: str, pool: str
) -> None:
    await working_sandbox()
    top, outside = tmp_path / "top", tmp_path / "outside"
    root = top / "between" / "root"
    for folder in (root, outside):
        folder.mkdir(parents=True)
    roots = {"PORTICO_WORKSPACE_ROOTS": f"{root},{top}", "PORTICO_POOL_SIZE": pool}
    roots |= SDK_DRIVER if driver == "claude-agent-sdk" else {"PORTICO_DRIVER": driver}
    async with running_server(tmp_path, **TOOLS, **roots) as server, talk(server) as client:
        made = root / OWN
        assert made.is_dir() and not made.is_symlink() and mode(made) == 0o700  # before anybody has asked for one
        before = made.stat().st_ino
        for name, cwd in (("root", root), ("top", top)):
            assert (await client.open(session_id=name, cwd=str(cwd)))["cwd"] == str(cwd)
            assert "ready" in await tool(
                client, name, "echo ready"
            )  # each agent is there before the victim's workspace
        victim = Path((await client.open(session_id="victim"))["cwd"])
        assert victim.parent == made
        (victim / "notes").write_text("sesame")
        for name in ("root", "top"):
            # Below its workspace, what it sees of the folders on the way there is in its own temporary folder.
            holder = root.parent if name == "top" else "/nowhere"
            names = {"root": root, "own": made, "outside": outside, "holder": holder}
            said = await tool(client, name, f"({ATTACKS % names}) 2>&1")
            assert "done" in said.splitlines() and "sesame" not in said and victim.name not in said
            assert await tool(client, name, f"touch {root}/written-by-{name} && echo written") == "written"
        assert made.stat().st_ino == before and mode(made) == 0o700 and not made.is_symlink()
        assert (victim / "notes").read_text() == "sesame" and not (made / "planted").exists()
        later = Path((await client.open(session_id="later"))["cwd"])
        assert later.parent == made and await tool(client, "later", "pwd") == str(later)
        assert os.listdir(outside) == []


PLANTED = ["link", "file", pytest.param("other", marks=as_root)]


@pytest.mark.parametrize("planted", PLANTED)
async def test_what_lies_in_the_place_of_the_workspaces_stops_the_start(tmp_path: Path, planted: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir(mode=0o755)
    root.mkdir()
    if planted == "link":
        (root / OWN).symlink_to(outside)
    elif planted == "file":
        (root / OWN).write_text("mine")
    else:
        (root / OWN).mkdir()
        os.chown(root / OWN, NOBODY, NOBODY)
    done = await serve(tmp_path, PORTICO_WORKSPACE_ROOTS=str(root))
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("portico: ")]
    assert done.returncode == 1 and str(root / OWN) in line and "move it away" in line
    assert mode(outside) == 0o755 and os.listdir(outside) == []


async def test_workspaces_that_are_swapped_while_the_server_runs_are_not_used(tmp_path: Path) -> None:
    """As an agent could do it that is in no sandbox."""
    root, outside, was = tmp_path / "root", tmp_path / "outside", tmp_path / "was"
    for folder in (root, outside):
        folder.mkdir(mode=0o755)
    roots = {"PORTICO_WORKSPACE_ROOTS": str(root)}
    async with running_server(tmp_path, **ECHO, **roots) as server, talk(server) as client:
        own = Path((await client.open(session_id="s"))["cwd"])
        (own / "file").write_text("x")
        (root / OWN).rename(was)
        (outside / own.name).mkdir()
        (outside / own.name / "precious").write_text("x")
        for plant in ("link", "folder"):
            if plant == "link":
                (root / OWN).symlink_to(outside)
            else:
                (root / OWN).unlink()
                shutil.copytree(outside, root / OWN)
            assert await refused(client) == (503, "workspaces_unusable"), plant
            assert only(await client.turn("s", "hello"), "error")["code"] == "workspace_moved", plant
            assert str(root / OWN) in httpx.get(f"{server.url}/readyz", timeout=HANG_SECONDS).text
        assert (await client.http.delete("/sessions/s?purge=true")).status_code == 204
        assert list(was.iterdir()) == []
        for place in (outside, root / OWN):
            assert (place / own.name / "precious").exists() and os.listdir(place) == [own.name]
        assert mode(outside) == 0o755


async def test_workspaces_in_what_was_the_first_root_go_on_and_stay_closed(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    async with running_server(tmp_path, **ECHO, PORTICO_WORKSPACE_ROOTS=f"{first},{second}") as server:
        async with talk(server) as client:
            own = Path((await client.open(session_id="s"))["cwd"])
            await client.open(session_id="t")
    assert own.parent == first / OWN
    (tmp_path / "home").rmdir()
    async with running_server(tmp_path, **ECHO, PORTICO_WORKSPACE_ROOTS=f"{second},{first}") as server:
        async with talk(server) as client:
            assert Path((await client.open())["cwd"]).parent == second / OWN
            assert (await client.turn("s", "hello"))[-1]["stop_reason"] == "end_turn"
            for cwd in (own, own.parent):
                assert await refused(client, cwd=str(cwd)) == (403, "not_allowed")
            own.rename(tmp_path / "was")
            own.symlink_to(tmp_path / "was")
            assert (await client.http.delete("/sessions/s?purge=true")).status_code == 204
            assert not own.is_symlink() and (tmp_path / "was").is_dir()
            assert (await client.http.delete("/sessions/t?purge=true")).status_code == 204
            assert list((first / OWN).iterdir()) == []


@real_cli
async def test_workspaces_in_what_is_no_root_any_more_stay_hidden(tmp_path: Path) -> None:
    await working_sandbox()
    root, wider = tmp_path / "wider" / "root", tmp_path / "wider"
    root.mkdir(parents=True)
    async with running_server(tmp_path, **ECHO, PORTICO_WORKSPACE_ROOTS=str(root)) as server, talk(server) as client:
        own = Path((await client.open(session_id="victim"))["cwd"])
        (own / "notes").write_text("sesame")
    (tmp_path / "home").rmdir()
    drivers = {"PORTICO_DRIVER": "claude-code,echo", "PORTICO_WORKSPACE_ROOTS": str(wider)}
    async with running_server(tmp_path, **TOOLS, **drivers) as server, talk(server) as client:
        for cwd in (own, own.parent):
            assert await refused(client, cwd=str(cwd)) == (403, "not_allowed")
        for name, cwd in (("wider", wider), ("root", root)):
            await client.open(session_id=name, cwd=str(cwd))
            said = await tool(client, name, f"(cat {own}/notes; ls -A {root}; mv {root} {root}-was; echo done) 2>&1")
            assert "done" in said.splitlines() and "sesame" not in said and OWN in said
        assert (await client.turn("victim", "hello"))[-1]["stop_reason"] == "end_turn"
        (server.data_dir / "workspace-folders.json").write_text("[")
    done = await serve(tmp_path, **drivers)
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("portico: ")]
    assert done.returncode == 1 and "workspace-folders.json" in line


@real_cli
async def test_agents_that_lie_behind_a_link_are_hidden_there(tmp_path: Path) -> None:
    await working_sandbox()
    disk = tmp_path / "disk"
    (disk / "agents").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "agents").symlink_to(disk / "agents")
    places = {"PORTICO_AGENT_ENV": f"DISK={disk}", "PORTICO_WORKSPACE_ROOTS": f"{tmp_path / 'root'},{disk}"}
    (tmp_path / "root").mkdir()
    async with running_server(tmp_path, **TOOLS, **places) as server, talk(server) as client:
        await client.open(session_id="victim")
        home = Path(await tool(client, "victim", 'echo sesame > "$HOME/notes"; realpath "$HOME"'))
        assert home.is_relative_to(disk) and (home / "notes").read_text() == "sesame\n"
        await client.open(session_id="thief")
        said = await tool(client, "thief", f'(ls {disk}/agents; cat {home}/notes; ls -d "$HOME") 2>&1')
        assert "sesame" not in said and home.parent.name not in said.splitlines() and str(disk) in said
        for cwd in (home, home.parent, disk / "agents", disk):
            assert await refused(client, cwd=str(cwd)) == (403, "not_allowed"), cwd


@real_cli
@as_root
async def test_a_setuid_program_of_an_agents_is_out_of_everybody_elses_reach(tmp_path: Path, open_folder: Path) -> None:
    await working_sandbox()
    data = open_folder / "data-in-a-folder-with-a-name-so-long-that-sockets-lie-elsewhere"
    make = 'for d in . "$HOME" "$TMPDIR" "$XDG_RUNTIME_DIR"; do cp /usr/bin/id "$d/as-root"; chmod 4755 "$d/as-root"; '
    make += 'chmod 777 "$d"; realpath "$d/as-root"; done'
    async with running_server(tmp_path, **TOOLS, PORTICO_DATA_DIR=str(data)) as server, talk(server) as client:
        own = Path((await client.open(session_id="s"))["cwd"])
        made = [Path(line) for line in (await tool(client, "s", make)).splitlines()]
        assert made[0] == own / "as-root" and len(made) == 4
        assert not made[3].is_relative_to(data)  # the runtime folder
        for path in made:
            assert path.stat().st_mode & stat.S_ISUID
            done = await as_nobody(str(path))
            assert done.returncode != 0 and b"uid=" not in done.stdout, (path, done.stdout)


async def test_a_root_that_others_may_enter_is_said_and_refused_where_a_sandbox_is_required(
    tmp_path: Path, open_folder: Path
) -> None:
    root = open_folder / "root"
    root.mkdir(mode=0o755)
    (root / "project").mkdir()
    roots = {"PORTICO_WORKSPACE_ROOTS": str(root)}
    done = await serve(tmp_path, **roots, PORTICO_SANDBOX="required")
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("portico: ")]
    assert done.returncode == 1 and f"others on this machine may enter the workspace root {root}" in line
    assert f"chmod 700 {root}" in line
    async with running_server(tmp_path, **ECHO, **roots) as server, talk(server) as client:
        (warning,) = [line for line in log(server).splitlines() if "others on this machine may enter" in line]
        assert f"chmod 700 {root}" in warning
        await client.open(cwd=str(root / "project"))
    (tmp_path / "home").rmdir()
    root.chmod(0o700)
    async with running_server(tmp_path, **ECHO, **roots, PORTICO_SANDBOX="required") as server, talk(server) as client:
        assert "others on this machine" not in log(server)
        await client.open(cwd=str(root / "project"))
        assert await refused(client, cwd=str(root)) == (403, "not_allowed")  # its agent could open it


@real_cli
async def test_folders_below_var_tmp_work_in_the_sandbox(tmp_path: Path) -> None:
    await working_sandbox()
    with tempfile.TemporaryDirectory(prefix="portico-", dir="/var/tmp") as name:
        base = Path(name)
        (base / "root" / "project").mkdir(parents=True)
        (base / "link").symlink_to("root")
        places = {"PORTICO_WORKSPACE_ROOTS": str(base / "link"), "PORTICO_DATA_DIR": str(base / "data")}
        async with running_server(tmp_path, **TOOLS, **places) as server, talk(server) as client:
            project = base / "link" / "project"
            for body in ({}, {"cwd": str(project)}, {"cwd": str(base / "root")}):
                session = await client.open(**body)
                said = await tool(client, session["session_id"], "pwd; touch made; echo x > /var/tmp/x; cat /tmp/x")
                assert said.split() == [session["cwd"], "x"]
                assert (Path(session["cwd"]) / "made").exists()


@real_cli
async def test_a_root_that_the_sandbox_cannot_show_stops_the_start(tmp_path: Path) -> None:
    await working_sandbox()
    good, bad, programs = tmp_path / "good", tmp_path / "bad", tmp_path / "programs"
    for folder in (good, bad, programs):
        folder.mkdir()
    write_failing_bwrap(programs / "bwrap", bad, f"bwrap: Can't mkdir {bad}")
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "PORTICO_DRIVER": "claude-code"}
    for sandbox in ("auto", "required"):
        roots = {"PORTICO_WORKSPACE_ROOTS": f"{good},{bad}", "PORTICO_SANDBOX": sandbox}
        done = await serve(tmp_path, **path, **roots)
        (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("portico: ")]
        assert done.returncode == 1 and f"in {bad} no agent would work" in line and "Can't mkdir" in line


async def test_who_works_where_programs_of_the_servers_lie_could_change_them(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("tools/bin", "server", "project", "logs"):
        (root / name).mkdir(parents=True)
    servers = f'{{"one": {{"command": "python3", "args": ["{root}/server/server.py"]}}}}'
    places = {
        "PATH": f"{root}/tools/bin:{os.environ['PATH']}",
        "PORTICO_MCP_SERVERS": servers,
        "PORTICO_AUDIT_LOG": str(root / "logs" / "audit.jsonl"),
        "PORTICO_WORKSPACE_ROOTS": str(root),
    }
    async with running_server(tmp_path, **ECHO, **places) as server, talk(server) as client:
        for name in ("tools/bin", "tools", "server", "logs", "."):
            assert await refused(client, cwd=str(root / name)) == (403, "not_allowed"), name
        await client.open(cwd=str(root / "project"))


async def test_nobody_works_in_what_is_the_kernels_and_odd_names_are_told(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "project").mkdir(parents=True)
    (root / "link").symlink_to("/proc")
    roots = {"PORTICO_WORKSPACE_ROOTS": f"{root},/proc"}
    async with running_server(tmp_path, **ECHO, **roots) as server, talk(server) as client:
        for cwd in ("/proc", "/proc/sys", f"/proc/{server.process.pid}", str(root / "link")):
            assert await refused(client, cwd=cwd) == (403, "not_allowed"), cwd
        for name in ("a" * 300, "missing", "project/" + "a/" * 1500):
            assert await refused(client, cwd=str(root / name)) == (422, "invalid_cwd"), name[:20]
        await client.open(cwd=str(root / "project"))


async def test_all_that_the_server_makes_in_the_data_folder_is_its_users_alone(tmp_path: Path) -> None:
    (tmp_path / "data" / "agents").mkdir(parents=True)
    (tmp_path / "data" / "agents").chmod(0o755)  # as earlier versions left it
    async with running_server(tmp_path, **ECHO) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.turn("s", "hello")
        found = [server.data_dir, *server.data_dir.rglob("*")]
        assert server.data_dir / "agents" in found and len(found) > 8
        assert [path for path in found if mode(path) & 0o077] == []


@real_cli
async def test_runtime_folders_are_hidden_from_who_works_above_them(tmp_path: Path) -> None:
    await working_sandbox()
    with tempfile.TemporaryDirectory() as name:
        root = Path(os.path.realpath(name))
        places = {"PORTICO_WORKSPACE_ROOTS": f"{tmp_path / 'first'},{root}", "TMPDIR": name, "PORTICO_SANDBOX": "auto"}
        async with running_server(tmp_path, **(TOOLS | places)) as server, talk(server) as client:
            await client.open(session_id="thief", cwd=str(root))
            assert await tool(client, "thief", "echo ready") == "ready"
            await client.open(session_id="victim")
            runtime = Path(await tool(client, "victim", 'echo "$XDG_RUNTIME_DIR"'))
            assert runtime.is_relative_to(root) and any(runtime.iterdir())
            said = await tool(client, "thief", f"cd {root}; ls -A {runtime.parent}; mv {runtime.parent} x; ls -dA x")
            assert runtime.name not in said and "No such file" in said
            for cwd in (runtime, runtime.parent):
                assert await refused(client, cwd=str(cwd)) == (403, "not_allowed")
        assert not runtime.parent.exists()

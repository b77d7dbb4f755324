"""The files that the sandbox shows, and the things that an agent can't do to the next start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from portico.core.errors import AgentUnavailable
from portico.core.short import remove_short
from portico.plugins.claude_code.arguments import opened
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.environment import make_folders
from portico.plugins.claude_code.isolation import isolate
from portico.plugins.claude_code.sandbox import Sandbox, find_sandbox
from portico.plugins.claude_code.visible import named_paths, program_paths, server_paths, unreadable
from tests.support.sandbox import run_wrapped, working_sandbox

pytestmark = pytest.mark.anyio


class Inside:
    """Runs shell commands as an agent of ``base`` would."""

    def __init__(self, base: Path, sandbox: Sandbox) -> None:
        self.folder, self.cwd = base / "agents" / "a", base / "work"
        self.cwd.mkdir(exist_ok=True)
        runtime = make_folders(self.folder)
        if runtime.parent != self.folder:
            remove_short(runtime)
        self.sandbox = sandbox

    async def __call__(self, command: str, *added: Path) -> str:
        argv = self.sandbox.wrap(["/bin/sh", "-c", command], self.folder, self.cwd, added=added)
        done = await run_wrapped(argv, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]})
        return done.stdout.decode()


@pytest.fixture
async def inside(tmp_path: Path) -> Inside:
    """In a folder that would be seen, were it not hidden: as a data folder in /opt would be."""
    return Inside(tmp_path, await working_sandbox(visible=(tmp_path,), hidden=(tmp_path,)))


async def test_it_sees_its_own_folders_and_nothing_beside_them(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (inside.folder / "process.json").write_text("{}")
    (tmp_path / "agents" / "b").mkdir()
    (inside.cwd / "mine").write_text("x")
    seen = await inside(f"ls {tmp_path} {tmp_path}/agents {inside.folder} {inside.cwd}")
    assert set(seen.split()) - {"a", "agents", "work", "config", "home", "run", "tmp", "mine"} == {
        f"{path}:" for path in (tmp_path, tmp_path / "agents", inside.folder, inside.cwd)
    }
    await inside(f"echo made > made; echo home > {inside.folder}/home/f; echo tmp > /tmp/f")
    assert (inside.cwd / "made").read_text() == "made\n"
    assert (inside.folder / "home" / "f").read_text() == "home\n"
    assert (inside.folder / "tmp" / "f").read_text() == "tmp\n"  # which the next start finds again


async def test_it_sees_the_folders_that_were_added_and_what_is_hidden_in_them_stays_hidden(tmp_path: Path) -> None:
    root = tmp_path / "root"
    secret, beside = root / "secret", tmp_path / "beside"
    for folder in (root, secret, beside, root / "a folder's \n"):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    inside = Inside(root, await working_sandbox(visible=(tmp_path,), hidden=(tmp_path, secret), roots=(root,)))
    seen = await inside(f"ls {root} {secret} {beside}; env | grep -c ADDED", root, root / "a folder's \n")
    assert "work" in seen and f"'{beside}': No such file" in seen
    assert seen.endswith(f"{secret}:\n0\n")
    assert (
        await inside("cat file 2>&1; echo mine > mine; cat mine", root)
        == "cat: file: No such file or directory\nmine\n"
    )
    await inside(f"echo new > {root}/new", root)
    assert (root / "new").read_text() == "new\n"
    assert "Read-only" in await inside(f"echo x > {secret}/x", root)
    assert f"'{root}/file': No such file" in await inside(f"ls {root}/file", root / "a folder's \n")


async def test_an_added_folder_that_is_another_one_by_now_is_refused(inside: Inside, tmp_path: Path) -> None:
    added, elsewhere = tmp_path / "added", tmp_path / "elsewhere"
    for folder in (added, elsewhere):
        folder.mkdir()
    argv = inside.sandbox.wrap(["/bin/sh", "-c", "echo started"], inside.folder, inside.cwd, added=(added,))
    added.rename(tmp_path / "was")
    added.symlink_to(elsewhere)
    done = await run_wrapped(argv, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]})
    assert done.stdout.decode() == "the workspace was moved\n"
    with pytest.raises(AgentUnavailable):
        inside.sandbox.wrap(["/bin/sh"], inside.folder, inside.cwd, added=(added,))


async def test_links_that_an_agent_leaves_lead_nowhere(inside: Inside, tmp_path: Path) -> None:
    """bubblewrap makes mount points with the server's rights, and sees the whole machine under /oldroot."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    if not tmp_path.is_relative_to("/tmp"):
        pytest.skip("nothing is mounted below /tmp")
    top = inside.folder / "tmp" / tmp_path.relative_to("/tmp").parts[0]
    top.symlink_to(f"/oldroot{victim}")
    assert await inside("pwd") == f"{inside.cwd}\n"
    assert top.is_dir() and not top.is_symlink()
    assert list(victim.iterdir()) == []
    (inside.folder / "tmp").rename(inside.folder / "was")
    (inside.folder / "tmp").symlink_to(victim)
    remove_short(make_folders(inside.folder))
    assert not (inside.folder / "tmp").is_symlink()
    assert victim.stat().st_mode & 0o777 == 0o755


async def test_a_workspace_that_is_swapped_for_a_link_is_refused(inside: Inside, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    inside.cwd.rename(tmp_path / "was")
    inside.cwd.symlink_to(other)
    with pytest.raises(AgentUnavailable) as caught:
        await inside("pwd")
    assert caught.value.code == "workspace_moved"


async def test_one_that_is_swapped_after_the_look_is_not_worked_in(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    argv = inside.sandbox.wrap(["/bin/sh", "-c", "touch here"], inside.folder, inside.cwd)
    inside.cwd.rename(tmp_path / "was")
    (tmp_path / "other").rename(inside.cwd)
    done = await run_wrapped(argv, env={"PATH": os.environ["PATH"]})
    assert done.returncode != 0 and b"the workspace was moved" in done.stderr
    assert list(inside.cwd.iterdir()) == []


async def test_no_command_line_says_where_it_works_and_what_is_hidden(inside: Inside, tmp_path: Path) -> None:
    command = inside.sandbox.wrap(["/bin/sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"], inside.folder, inside.cwd)
    with opened(command) as (words, _):
        assert not [word for word in words if str(tmp_path) in word]
    done = await run_wrapped(command)  # the first process in there is bubblewrap's own
    assert b"--args" in done.stdout and os.fsencode(tmp_path) not in done.stdout


async def test_what_is_hidden_is_hidden_in_the_workspace_too(tmp_path: Path) -> None:
    hidden = (tmp_path / "work" / ".others", tmp_path / "work" / ".env", tmp_path / "seen" / "tokens")
    for file in hidden[1:]:
        file.parent.mkdir()
        file.write_text("secret")
    inside = Inside(tmp_path, await working_sandbox(hidden=hidden, visible=(tmp_path / "seen",)))
    (inside.cwd / ".others").mkdir()
    (inside.cwd / ".others" / "secret").write_text("x")
    assert await inside("ls -A . .others") == ".:\n.env\n.others\n\n.others:\n"
    said = await inside(f"cat .env {hidden[2]}")
    assert said.count("denied") == 2 and "secret" not in said


async def test_a_secret_is_hidden_where_its_link_leads_by_now(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / "seen" / name).mkdir(parents=True)
        (tmp_path / "seen" / name / "key").write_text("sesame")
    link = tmp_path / "seen" / "key"
    link.symlink_to("old/key")
    inside = Inside(tmp_path, await working_sandbox(hidden=(link,), visible=(tmp_path / "seen",)))
    link.unlink()
    link.symlink_to("new/key")
    said = await inside(f"cat {link} {tmp_path}/seen/old/key {tmp_path}/seen/new/key")
    assert said.count("denied") == 3 and "sesame" not in said


async def test_a_root_may_hold_programs_and_be_a_folder_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("#!/bin/sh\necho works\n")
    (tmp_path / "bin" / "tool").chmod(0o755)
    roots = (tmp_path, Path("/usr"), Path("/"), Path("/usr/share/doc"))
    visible = (tmp_path / "bin", Path("/usr/share/doc/dash"))
    inside = Inside(tmp_path, await working_sandbox(visible=filter(Path.exists, visible), roots=roots))
    assert await inside(f"{tmp_path}/bin/tool; ls /usr/share/doc") in ("works\n", "works\ndash\n")


async def test_where_there_is_none_auto_goes_on_and_says_what_that_means(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DriverConfig(agents=tmp_path, environment={"PATH": str(tmp_path)}, sandbox="auto")
    containment = await isolate(config)
    assert containment.sandbox is None
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    (warning,) = [message for message in messages if "not in a sandbox" in message]
    assert "not in a sandbox (there is no program bwrap (on Debian and Ubuntu, `apt install bubblewrap`))" in warning


@pytest.mark.parametrize("setting", ["bubblewrap", "required"])
async def test_where_there_is_none_and_it_is_wanted_nothing_starts(setting: str, tmp_path: Path) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    config = DriverConfig(agents=tmp_path, environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, sandbox=setting)
    with pytest.raises(AgentUnavailable) as caught:
        await isolate(config)
    assert caught.value.code == "no_sandbox"
    assert "setting up uid map: Permission denied" in caught.value.detail


async def test_one_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portico.plugins.claude_code.sandbox.PROBE_TIME", 0.2)
    (tmp_path / "bwrap").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "bwrap").chmod(0o755)
    with pytest.raises(LookupError, match="no answer within"):
        await find_sandbox(f"{tmp_path}:{os.environ['PATH']}", {})


def test_of_a_folder_on_the_path_its_libraries_are_seen_and_not_what_else_lies_there(tmp_path: Path) -> None:
    for name in (".local/bin", ".local/lib", ".local/share/keyrings", "base/bin", "base/lib"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".local/pyvenv.cfg").write_text(f"home = {tmp_path}/base/bin\nversion = 3\n")
    (tmp_path / "ca.pem").write_text("")
    path = f"{tmp_path}/.local/bin:relative:/missing:/"
    found = {
        str(path.relative_to(tmp_path))
        for path in named_paths({"PATH": path, "SSL_CERT_FILE": f"{tmp_path}/ca.pem"})
        if path.is_relative_to(tmp_path)
    }
    assert found == {".local/bin", ".local/lib", ".local/pyvenv.cfg", "base/bin", "base/lib", "ca.pem"}
    assert Path("/") not in named_paths({"PATH": "/", "X": "/"})


def test_a_program_comes_with_its_interpreter_and_its_package(tmp_path: Path) -> None:
    package, link = tmp_path / "lib" / "claude-code", tmp_path / "bin" / "claude"
    for folder in (package, link.parent):
        folder.mkdir(parents=True)
    (package / "package.json").write_text("{}")
    (package / "cli.js").write_text("#!/opt/node/bin/node\n")
    link.symlink_to(package / "cli.js")
    assert {package / "cli.js", package, link, Path("/opt/node/bin/node")} <= set(program_paths(link))
    servers: dict[str, dict[str, Any]] = {
        "a": {"command": str(link), "args": ["--x", str(tmp_path)]},
        "b": {"url": "http://x"},
    }
    assert {link, package, tmp_path} <= set(server_paths(servers))


def test_what_not_everybody_may_read_is_known(tmp_path: Path) -> None:
    for name, mode in (("open", 0o644), ("key", 0o640), ("shadow", 0o600)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / "key").write_text("")
    assert {path.name for path in unreadable(tmp_path)} == {"key", "shadow", "private"}


async def test_what_can_be_written_is_what_the_docs_say(tmp_path: Path) -> None:
    """On each mount, and in each folder that an agent might take for its own."""
    (tmp_path / "data").mkdir()
    base = tmp_path / "data"
    (base / "work" / ".portico-workspaces").mkdir(parents=True)
    inside = Inside(base, await working_sandbox(visible=(tmp_path,), hidden=(base,)))
    look = """
    for place in $(cut -d' ' -f5 /proc/self/mountinfo) / /run /var /home /dev /etc/ssl/private %s %s/agents %s
    do touch "$place/new-file" 2>/dev/null && { echo "$place"; rm "$place/new-file"; }
    done
    """
    written = set((await inside(look % (base, base, inside.folder))).split())
    own = {str(inside.folder / name) for name in ("home", "config", "tmp", "run")}
    assert written == {str(inside.cwd), *own, "/tmp", "/var/tmp", "/dev/shm"}
    devices = "echo x >/dev/null && head -c 1 /dev/urandom >/tmp/r && echo x >/dev/shm/x && cat /dev/shm/x"
    assert await inside(devices) == "x\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="others own no device")
async def test_root_in_there_cannot_take_the_machines_devices_away(tmp_path: Path) -> None:
    await working_sandbox()
    (tmp_path / "agents").mkdir()
    config = DriverConfig(agents=tmp_path / "agents", environment={"PATH": os.environ["PATH"]}, sandbox="required")
    containment = await isolate(config)
    assert containment.sandbox is not None
    inside = Inside(tmp_path, containment.sandbox)
    before = Path("/dev/full").stat()
    await inside("chmod 600 /dev/full; chown 1 /dev/full; chmod 660 /dev/null")
    after = Path("/dev/full").stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert Path("/dev/null").stat().st_mode & 0o777 == 0o666
    assert await inside("echo x >/dev/null; head -c 1 /dev/zero | od -An -tx1") == " 00\n"


async def test_neither_what_is_hidden_nor_a_folder_on_the_way_there_can_be_moved(tmp_path: Path) -> None:
    hidden = tmp_path / "work" / "a" / "b" / ".others"
    hidden.mkdir(parents=True)
    (hidden / "secret").write_text("sesame")
    (tmp_path / "work" / "a" / "beside").write_text("x")
    inside = Inside(tmp_path, await working_sandbox(hidden=(hidden, tmp_path / "work" / "a" / "missing" / "x")))
    said = await inside("mv a x; mv a/b x; mv a/b/.others x; rm -rf a/b; find . ; cat a/beside; echo y > a/new")
    assert "sesame" not in said and "secret" not in said and "./a/b/.others\n" in said and said.endswith("x")
    assert (hidden / "secret").read_text() == "sesame" and (tmp_path / "work" / "a" / "new").exists()


async def test_a_link_in_the_place_of_a_hidden_folder_hides_nothing_else(tmp_path: Path) -> None:
    """An agent that plants one would take /usr away from all the others."""
    root = tmp_path / "root"
    root.mkdir()
    inside = Inside(tmp_path, await working_sandbox(hidden=(root / ".portico-workspaces",), roots=(root,)))
    (root / ".portico-workspaces").symlink_to("/usr/share")
    assert await inside("test -e /usr/share/doc && echo seen") == "seen\n"
    root.rename(tmp_path / "was")
    root.symlink_to("/usr/share")
    assert await inside("test -e /usr/share/doc && echo seen") == "seen\n"

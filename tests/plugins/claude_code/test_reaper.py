"""A server is killed; the next one clears up."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest

from portico.plugins.claude_code.cgroup import cgroup_name
from portico.plugins.claude_code.processes import start_time
from portico.plugins.claude_code.reaper import reap
from portico.plugins.claude_code.record import ProcessRecord
from tests.support.agents import MECHANISMS, contained, fake_agent, gone_soon, live, processes_of
from tests.support.claude import driving, new_spec, started
from tests.support.fake_cli import fake_cli
from tests.support.limits import HANG_SECONDS

pytestmark = [pytest.mark.anyio, pytest.mark.fake_agent]

ROOT = Path(__file__).parents[3]
LOOPS = (pytest.param("asyncio", marks=pytest.mark.long), "uvloop")


@contextmanager
def doomed_server(loop: str, mechanism: str, folder: Path) -> Iterator[list[psutil.Process]]:
    """A server with an agent in ``folder``, as long as it takes to kill it -9. Gives all processes of the agent."""
    folder.mkdir(parents=True)
    command = fake_agent("child:1200", "daemon:1200", "defiant", "say:ready", "hang")
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/support/doomed_server.py"), loop, mechanism, str(folder), *command],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"[b'ready']\n"
        agents = processes_of(folder)
        assert len(agents) >= 3
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
    try:
        yield agents
    finally:
        for process in live(processes_of(folder)):
            process.kill()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_nothing_survives_a_kill_of_the_server(loop: str, mechanism: str, tmp_path: Path) -> None:
    await contained(mechanism)
    folder = tmp_path / "agents" / "one"
    with doomed_server(loop, mechanism, folder) as agents:
        record = ProcessRecord.read(folder)
        assert record is not None and record.containment == mechanism
        outermost = [process for process in agents if process.pid == record.pid]
        assert gone_soon(agents if mechanism in MECHANISMS[:3] else outermost)  # at once, without any next start
        left = live(processes_of(folder))
        assert await reap(tmp_path / "agents") == [folder]
        assert not live([*agents, *left, *processes_of(folder)])
        assert not (folder / "process.json").exists()
        assert record.cgroup is None or not cgroup_exists(record.cgroup)
    assert await reap(tmp_path / "agents") == []


async def test_a_server_killed_before_it_wrote_the_record(tmp_path: Path) -> None:
    folder = tmp_path / "agents" / "one"
    with doomed_server("asyncio", "best-effort", folder) as agents:
        (folder / "process.json").unlink()
        assert live(agents)
        assert await reap(tmp_path / "agents") == [folder]
        assert not live(agents)


async def test_other_folders_agents_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "agents" / "one"
    with doomed_server("asyncio", "best-effort", folder) as agents:
        record = ProcessRecord.read(folder)
        assert record is not None
        assert gone_soon([process for process in agents if process.pid == record.pid])
        left = live(agents)
        assert await reap(tmp_path / "others") == []
        assert await reap(tmp_path) == []
        assert live(agents) == left != []


def cgroup_exists(folder: str) -> bool:
    return Path(folder).exists()


@pytest.fixture
def bystander() -> Iterator[psutil.Process]:
    """Somebody else's process."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()


async def test_a_pid_that_is_anothers_by_now_is_left_alone(tmp_path: Path, bystander: psutil.Process) -> None:
    began = start_time(bystander.pid)
    assert began is not None
    record = ProcessRecord(bystander.pid, began, "best-effort")
    boot, _, ticks = began.partition("/")
    for number, other in enumerate((f"{boot}/{int(ticks) - 1}", f"other-boot/{ticks}", "")):
        folder = tmp_path / str(number)
        folder.mkdir()
        replace(record, start_time=other).write(folder)
    assert len(await reap(tmp_path)) == 3
    assert live([bystander])
    assert not any((tmp_path / str(number) / "process.json").exists() for number in range(3))

    (tmp_path / "same").mkdir()
    record.write(tmp_path / "same")
    await reap(tmp_path)
    assert not live([bystander])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": "x"}', '{"pid": 1, "start_time": "", "containment": ""}'])
async def test_a_record_that_makes_no_sense_does_no_harm(text: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "process.json").write_text(text)
    await reap(tmp_path)
    assert not (tmp_path / "one" / "process.json").exists()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder, with a short path."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


async def test_runtime_folders_elsewhere_go_too(tmp_path: Path, temporary: Path) -> None:
    (temporary / "portico-0123456789abcdef").mkdir()  # somebody else's
    base = tmp_path / ("long" * 20)
    async with driving(base, cli_path=fake_cli(tmp_path, {"hang": True})) as driver:
        spec = new_spec(base)
        async with started(driver, spec):
            record = ProcessRecord.read(spec.folder)
            assert record is not None and record.runtime is not None
            assert Path(record.runtime).is_dir()
    assert not Path(record.runtime).exists()
    record.write(spec.folder)  # as a kill -9 leaves it
    Path(record.runtime, "cc-socks").mkdir(parents=True)
    assert await reap(base / "agents") == [spec.folder]
    assert [path.name for path in temporary.iterdir()] == ["portico-0123456789abcdef"]


async def test_an_agent_cannot_have_the_reaper_remove_what_it_likes(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "agents" / "one").mkdir(parents=True)
    record = ProcessRecord(2, "", "best-effort", None, str(tmp_path / "precious"))
    record.write(tmp_path / "agents" / "one")
    assert len(await reap(tmp_path / "agents")) == 1
    assert (tmp_path / "precious").exists()


async def test_a_record_that_is_a_pipe_or_a_link_does_no_harm(tmp_path: Path) -> None:
    agents, outside = tmp_path / "agents", tmp_path / "outside"
    for folder in (agents / "pipe", agents / "link", outside):
        folder.mkdir(parents=True)
    os.mkfifo(agents / "pipe" / "process.json")
    (outside / "process.json").write_text("{}")
    (agents / "link" / "process.json").symlink_to(outside / "process.json")
    (agents / "elsewhere").symlink_to(outside)
    with anyio.fail_after(HANG_SECONDS):
        assert await reap(agents) == [agents / "link", agents / "pipe"]
    assert (outside / "process.json").exists() and not (agents / "pipe" / "process.json").exists()


async def test_an_agent_cannot_name_any_folder_as_its_control_group(tmp_path: Path) -> None:
    folder, outside = tmp_path / "agents" / "one", tmp_path / "outside"
    for each in (folder, outside / "empty"):
        each.mkdir(parents=True)
    (tmp_path / cgroup_name(folder)).symlink_to(outside)
    ProcessRecord(2, "", "cgroup", str(tmp_path / cgroup_name(folder))).write(folder)
    assert await reap(tmp_path / "agents") == [folder]
    assert os.listdir(outside) == ["empty"]


async def test_no_folder_yet(tmp_path: Path) -> None:
    assert await reap(tmp_path / "agents") == []

"""A process, its pipes and its end: with an executable that misbehaves, and with the real CLI."""

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from portico.core.errors import AgentFailed, AgentUnavailable
from portico.plugins.claude_code import process as process_module
from portico.plugins.claude_code.framer import MAX_LINE, Oversized
from portico.plugins.claude_code.process import CliProcess
from portico.plugins.demo.model_server import serve_model
from tests.support.agents import (
    MECHANISMS,
    contained,
    fake_agent,
    gone_soon,
    live,
    no_descriptors,
    processes_of,
    processes_with,
    real_cli,
    unique_seconds,
)
from tests.support.limits import HANG_SECONDS, NEVER_SECONDS

pytestmark = pytest.mark.anyio

STRONG = MECHANISMS[:4]
fake = pytest.mark.fake_agent
on_both_loops = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"use_uvloop": False}), marks=pytest.mark.long, id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)


@asynccontextmanager
async def started(folder: Path, *steps: str, mechanism: str = "best-effort") -> AsyncIterator[CliProcess]:
    """A fake agent; nothing of it is left afterwards."""
    process = await CliProcess.start(
        fake_agent(*steps),
        env={"PATH": os.environ["PATH"]},
        cwd=folder,
        folder=folder,
        containment=await contained(mechanism),
    )
    try:
        yield process
    finally:
        await process.close()
        assert not live(processes_of(folder))
        assert not (folder / "process.json").exists()


@fake
@on_both_loops
async def test_lines_go_both_ways(tmp_path: Path) -> None:
    async with started(tmp_path, "say:ready", "echo") as process:
        assert await process.receive() == [b"ready"]
        await process.send(b'{"a":1}')
        assert await process.receive() == [b'{"a":1}']
        with pytest.raises(ValueError, match="line feed"):
            await process.send(b"two\nlines")


@fake
@on_both_loops
async def test_it_inherits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hush")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        async with started(tmp_path, "environ", "descriptors", "hang") as process:
            lines = await process.receive()
            while len(lines) < 2:
                lines += await process.receive()
    finally:
        os.close(reading)
        os.close(writing)
    environ, descriptors = (json.loads(line) for line in lines if isinstance(line, bytes))
    environ.pop("LC_CTYPE", None)  # Python's own doing
    assert environ == {"PATH": os.environ["PATH"], "PORTICO_AGENT": str(tmp_path)}
    assert descriptors == [0, 1, 2]


@fake
async def test_lines_of_many_senders_never_mix(tmp_path: Path) -> None:
    lines = [bytes([65 + n]) * 300_000 for n in range(8)]
    got: list[bytes | Oversized] = []
    async with started(tmp_path, "echo") as process, anyio.create_task_group() as tasks:
        for line in lines:
            tasks.start_soon(process.send, line)
        while len(got) < len(lines):
            got += await process.receive()
    assert sorted(got, key=repr) == sorted(lines, key=repr)


@fake
@on_both_loops
async def test_a_cancelled_send_still_sends_its_whole_line(tmp_path: Path) -> None:
    scope = anyio.CancelScope()
    got: list[bytes | Oversized] = []

    async def first() -> None:
        with scope:
            await process.send(b"x" * 1_000_000)

    async with started(tmp_path, f"await:{tmp_path}/go", "echo") as process, anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await anyio.wait_all_tasks_blocked()  # the pipe is full
        scope.cancel()
        await anyio.lowlevel.checkpoint()
        (tmp_path / "go").touch()
        tasks.start_soon(process.send, b"second")
        while len(got) < 2:
            got += await process.receive()
    assert got == [b"x" * 1_000_000, b"second"]


@fake
@on_both_loops
async def test_a_process_that_does_not_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "SEND_TIME", 0.3)
    async with started(tmp_path, "hang") as process:
        with pytest.raises(AgentFailed) as caught:
            await process.send(b"x" * 1_000_000)
        assert caught.value.code == "agent_stalled"
        with pytest.raises(AgentFailed):
            await process.send(b"half a line is in the pipe")


@fake
@on_both_loops
async def test_send_to_a_dead_process(tmp_path: Path) -> None:
    async with started(tmp_path, "complain:out of order", "exit:3") as process:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            assert await process.wait() == 3
            with pytest.raises(AgentFailed) as caught:
                await process.send(b"{}")
            assert caught.value.code == "agent_exited"
            assert await process.receive() == []
        assert process.stderr_tail == "out of order\n"
        assert process.returncode == 3


@fake
@on_both_loops
async def test_a_line_of_20_mib_and_one_too_long(tmp_path: Path) -> None:
    size = 20 * 1024 * 1024
    async with started(tmp_path, f"line:{size}", f"line:{MAX_LINE + 1}", "say:next", "hang") as process:
        got: list[bytes | Oversized] = []
        while len(got) < 3:
            got += await process.receive()
        assert got == [b"x" * size, Oversized(MAX_LINE + 1), b"next"]


@fake
@on_both_loops
async def test_half_a_line_then_nothing(tmp_path: Path) -> None:
    async with started(tmp_path, "say:whole", 'half:{"type', "hang") as process:
        assert await process.receive() == [b"whole"]
        with anyio.move_on_after(0.3) as waiting:
            await process.receive()
        assert waiting.cancelled_caught
        await process.close()
        assert await process.receive() == []


@fake
@on_both_loops
async def test_fifty_megabytes_on_stderr_block_nothing(tmp_path: Path) -> None:
    async with started(tmp_path, "flood:50_000_000", "complain:the end", "say:through", "hang") as process:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            with anyio.fail_after(HANG_SECONDS):
                assert await process.receive() == [b"through"]
            tasks.start_soon(process.close)
        assert len(process.stderr_tail) == 16 * 1024
        assert process.stderr_tail.endswith("the end\n") or "the end\nTerminated" in process.stderr_tail


@fake
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_nothing_survives_the_most_defiant(mechanism: str, tmp_path: Path) -> None:
    steps = ("child:1200", "daemon:1200", "defiant", "child:1200", "say:ready", "hang")
    async with started(tmp_path, *steps, mechanism=mechanism) as process, anyio.create_task_group() as tasks:
        tasks.start_soon(process.run)
        assert await process.receive() == [b"ready"]
        with anyio.fail_after(HANG_SECONDS):  # one that is just becoming another program has no environment
            await until(lambda: len(processes_of(tmp_path)) >= 4)
        before = processes_of(tmp_path)
        with anyio.fail_after(HANG_SECONDS):
            await process.close()
        assert not live(before)


@fake
@pytest.mark.parametrize("mechanism", STRONG)
async def test_not_even_one_that_clears_its_environment(mechanism: str, tmp_path: Path) -> None:
    word = unique_seconds()
    async with started(tmp_path, f"bare:{word}", "say:ready", "echo", mechanism=mechanism) as process:
        assert await process.receive() == [b"ready"]
        (bare,) = processes_with(word)
        assert bare.environ().get("PORTICO_AGENT") is None
        await process.close()
        assert gone_soon([bare])  # the kernel kills it with its namespace: it has no mark by which we could wait for it


@fake
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_it_may_clear_up_at_a_sigterm(mechanism: str, tmp_path: Path) -> None:
    async with started(tmp_path, f"polite:{tmp_path}/left", "say:ready", "hang", mechanism=mechanism) as process:
        assert await process.receive() == [b"ready"]
        await process.close()
        assert (tmp_path / "left").exists()


@fake
async def test_a_child_without_an_environment_is_known_by_its_parent(tmp_path: Path) -> None:
    word = unique_seconds()
    async with started(tmp_path, f"hidden:{word}", "say:ready", "hang") as process:
        assert await process.receive() == [b"ready"]
        with anyio.fail_after(HANG_SECONDS):
            await until(lambda: bool(processes_with(word)))
        hidden = processes_with(word)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await process.close()
        assert not live(hidden)


@fake
@on_both_loops
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_what_is_left_goes_with_a_process_that_ends_by_itself(mechanism: str, tmp_path: Path) -> None:
    async with started(tmp_path, "daemon:1200", "say:bye", mechanism=mechanism) as process:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            assert await process.receive() == [b"bye"]
            with anyio.fail_after(HANG_SECONDS):  # though the daemon has the pipe as well
                assert await process.receive() == []
        assert not live(processes_of(tmp_path))
        assert not (tmp_path / "process.json").exists()


@fake
async def test_closing_asks_first_and_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in ("INTERRUPT_TIME", "STDIN_TIME", "TERM_TIME", "KILL_TIME"):  # none of these is waited for
        monkeypatch.setattr(process_module, each, NEVER_SECONDS)
    asked = []

    async def interrupt() -> None:
        asked.append(process.returncode)

    async with started(tmp_path, "say:ready", "echo") as process:
        await process.receive()
        with anyio.fail_after(HANG_SECONDS):
            await process.close(interrupt)
        assert asked == [None]
        assert process.returncode == 0


@fake
async def test_an_interrupt_that_hangs_is_given_up(tmp_path: Path) -> None:
    async with started(tmp_path, "say:ready", "echo") as process:
        await process.receive()
        with anyio.fail_after(HANG_SECONDS):
            await process.close(anyio.sleep_forever)


@fake
@on_both_loops
async def test_closing_twice_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "TERM_TIME", 0.2)
    async with started(tmp_path, "defiant", "daemon:1200", "say:ready", "hang") as process:
        await process.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.close)
            tasks.start_soon(process.close)
            await process.close()
            assert not live(processes_of(tmp_path))
        await process.close()


@fake
@on_both_loops
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_a_cancelled_close_kills_at_once(mechanism: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "TERM_TIME", NEVER_SECONDS)  # which the agent lets pass
    steps = ("defiant", "daemon:1200", "say:ready", "hang")
    async with started(tmp_path, *steps, mechanism=mechanism) as process:
        await process.receive()
        before = processes_of(tmp_path)
        with anyio.move_on_after(0.1) as scope:
            await process.close()
        assert scope.cancelled_caught
        assert before and not live(before)


@fake
@pytest.mark.parametrize("mechanism", ["pid-namespace", "best-effort"])
async def test_it_can_be_killed_while_no_descriptor_is_free(
    mechanism: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "KILL_TIME", 0.1)
    async with started(tmp_path, "defiant", "say:ready", "hang", mechanism=mechanism) as process:
        assert await process.receive() == [b"ready"]
        before = processes_of(tmp_path)
        with no_descriptors(), anyio.CancelScope() as scope:
            scope.cancel()
            await process.close()
        assert before and gone_soon(before)


@fake
@on_both_loops
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_a_cancelled_start_leaves_nothing(mechanism: str, tmp_path: Path) -> None:
    containment = await contained(mechanism)
    process = None
    for delay in (0, 0.0005, 0.001, 0.002, 0.005):
        with anyio.move_on_after(delay):
            process = await CliProcess.start(
                fake_agent("echo"), env={}, cwd=tmp_path, folder=tmp_path, containment=containment
            )
        if process is not None:  # not cancelled in time
            await process.close()
        assert not live(processes_of(tmp_path))
        assert not (tmp_path / "process.json").exists()
        assert (group := containment.cgroup(tmp_path)) is None or not group.exists()


async def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    containment = await contained("best-effort")
    missing = tmp_path / "missing"
    with pytest.raises(AgentUnavailable) as caught:
        await CliProcess.start(["true"], env={}, cwd=missing, folder=tmp_path, containment=containment)
    assert caught.value.code == "spawn_failed"
    assert str(missing) in caught.value.detail


@fake
async def test_a_start_that_can_not_be_put_on_record_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "process.json").mkdir()  # an agent may do that: the folder is its own
    with pytest.raises(AgentUnavailable):
        await CliProcess.start(
            fake_agent("hang"), env={}, cwd=tmp_path, folder=tmp_path, containment=await contained("best-effort")
        )
    assert not live(processes_of(tmp_path))


@pytest.mark.real_cli
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_nothing_survives_a_real_bash_tool(mechanism: str, tmp_path: Path) -> None:
    word = unique_seconds()
    command = f"setsid sleep {word} & (setsid setsid sleep {word} &) ; sleep {word}"
    script = [{"tool": {"name": "Bash", "input": {"command": command}}}]
    message = {"type": "user", "message": {"role": "user", "content": f"[{json.dumps(script)}]"}}
    cli, containment = real_cli(), await contained(mechanism)
    async with serve_model() as served:
        process = await CliProcess.start(
            [str(cli), *REAL_FLAGS],
            env=real_env(tmp_path, served.url),
            cwd=tmp_path,
            folder=tmp_path,
            containment=containment,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.run)
                tasks.start_soon(drain, process)
                await process.send(json.dumps(message).encode())
                with anyio.fail_after(HANG_SECONDS):
                    await until(lambda: len(processes_with(word)) >= 3)
                before = processes_of(tmp_path) + processes_with(word)
                await process.close()
        finally:
            await process.close()
        assert not live(before)
        assert not live(processes_of(tmp_path))
        assert not processes_with(word)


REAL_FLAGS = (
    "--output-format=stream-json",
    "--input-format=stream-json",
    "--verbose",
    "--permission-mode=bypassPermissions",
    "--setting-sources=",
    "--strict-mcp-config",
)


def real_env(folder: Path, url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "CLAUDE_CONFIG_DIR": str(folder / "config"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "IS_SANDBOX": "1",
        "ANTHROPIC_API_KEY": "x",
        "ANTHROPIC_BASE_URL": url,
    }


async def drain(process: CliProcess) -> None:
    while await process.receive():
        pass


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.05)

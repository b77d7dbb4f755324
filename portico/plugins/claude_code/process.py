"""One CLI process: its pipes, its exit, and its end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Self

import anyio
import anyio.to_thread

from portico.core.errors import AgentFailed, AgentUnavailable
from portico.core.git_folders import GitFolder
from portico.core.threads import in_thread
from portico.plugins.claude_code.arguments import Argument, opened
from portico.plugins.claude_code.cgroup import clear_cgroup
from portico.plugins.claude_code.containment import Containment
from portico.plugins.claude_code.exit import Exit
from portico.plugins.claude_code.framer import LineFramer, Oversized
from portico.plugins.claude_code.killing import kill_agents
from portico.plugins.claude_code.pipes import PipeReader, PipeWriter
from portico.plugins.claude_code.processes import MARKER, start_time
from portico.plugins.claude_code.record import ProcessRecord

CHUNK = 256 * 1024  # bytes read at once
STDERR_TAIL = 16 * 1024  # bytes
SEND_TIME = 10.0
"""Seconds in which the CLI has to take a line."""

INTERRUPT_TIME, STDIN_TIME, TERM_TIME, KILL_TIME = 1.0, 1.0, 2.0, 3.0
"""Seconds that each step of a close may take."""

logger = logging.getLogger(__name__)


class CliProcess:
    """A child that leaves nothing behind, not even its own children.

        process = await CliProcess.start(argv, env=env, cwd=cwd, folder=folder, containment=containment)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.run)
                while lines := await process.receive():
                    ...
        finally:
            await process.close()

    A task has to be in `receive` all the time, or return to it soon: the CLI keeps unread output in its memory.
    """

    def __init__(self, child: Popen[bytes], folder: Path, record: ProcessRecord) -> None:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None  # noqa: S101
        self.pid = child.pid  # of the outermost process
        self._exit = Exit(child)
        self._stdin = PipeWriter(child.stdin)
        self._stdout, self._stderr = PipeReader(child.stdout), PipeReader(child.stderr)
        self._folder = folder
        self._record = record
        self._framer = LineFramer()
        self._stderr_tail = b""
        self._sending = anyio.Lock()
        self._asking, self._killing = anyio.Lock(), anyio.Lock()
        self._asked = self._gone = False

    @classmethod
    async def start(
        cls,
        argv: Sequence[Argument],
        *,
        env: Mapping[str, str],
        cwd: Path,
        folder: Path,
        containment: Containment,
        runtime: Path | None = None,
        added: Sequence[Path] = (),
        git: Sequence[GitFolder] = (),
    ) -> Self:
        """Start ``argv`` in ``cwd``, and record it in ``folder``, which exists and belongs to this agent alone. It also
        works in the ``added`` folders, and with the ``git`` folders of worktrees and submodules among these.

        ``env`` is its whole environment, except for `MARKER`, which is added. ``runtime`` is its runtime folder if that
        is not in ``folder``. Raises `AgentUnavailable`. A cancelled start leaves nothing behind.
        """
        folder = Path(os.path.realpath(folder))  # noqa: ASYNC240
        group = containment.cgroup(folder)
        try:
            contained = await anyio.to_thread.run_sync(containment.wrap, argv, folder, cwd, runtime, added, git)
            with opened(contained) as (words, files):
                child = Popen(  # noqa: ASYNC220 - returns once exec is done, and a vfork copies nothing: a millisecond
                    words,
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=PIPE,
                    bufsize=0,
                    cwd=cwd,
                    env={**env, MARKER: str(folder)},
                    start_new_session=True,
                    pass_fds=files,
                )
        except OSError as error:
            if group is not None:
                clear_cgroup(group)
            raise _unavailable(error) from error
        record = ProcessRecord(
            child.pid,
            start_time(child.pid) or "",
            containment.name,
            str(group) if group is not None else None,
            str(runtime) if runtime is not None else None,
        )
        process = cls(child, folder, record)
        try:
            await anyio.to_thread.run_sync(record.write, folder)
        except BaseException as error:
            await process._end()
            if isinstance(error, OSError):
                raise _unavailable(error) from error
            raise
        return process

    @property
    def returncode(self) -> int | None:
        """The exit status; negative, or 128 and more, when a signal ended it. None while it runs."""
        return self._exit.status

    @property
    def stderr_tail(self) -> str:
        """The last 16 KiB that it wrote to stderr; complete once `run` has ended."""
        return self._stderr_tail.decode(errors="replace")

    async def run(self) -> None:
        """Drain stderr, wait for the exit, and kill what the CLI left behind. Ends once nothing is left.

        Start it in a task group right after `start`. Cancelling it only stops the draining.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._drain_stderr)
            await self._exit.wait()
            await self._kill()  # remaining processes may keep the pipes open for ever

    async def receive(self) -> list[bytes | Oversized]:
        """Return the next lines: all that have come, at least one; [] when stdout is closed. May be cancelled."""
        with contextlib.suppress(anyio.ClosedResourceError):
            while chunk := await self._stdout.receive(CHUNK):
                if lines := self._framer.feed(chunk):
                    return lines
        if (cut := self._framer.close()) is not None:
            size = cut.size if isinstance(cut, Oversized) else len(cut)
            logger.warning("agent process %d ended in the middle of a line, after %d bytes", self.pid, size)
        return []

    async def send(self, line: bytes) -> None:
        """Write one line, given without its line feed. Lines never mix, whichever tasks send.

        Takes 10 s at most, cancelled or not, because half a line would spoil the next. Raises `AgentFailed`:
        ``agent_exited``, or ``agent_stalled`` if the process did not take a line in time; after that it takes no more
        lines.
        """
        if b"\n" in line:
            raise ValueError("a line feed within a line")
        async with self._sending:
            try:
                with anyio.fail_after(SEND_TIME, shield=True):
                    await self._stdin.send(line + b"\n")
            except TimeoutError as error:
                await self._stdin.close()
                raise AgentFailed("The agent's process takes no input.", code="agent_stalled") from error
            except (anyio.ClosedResourceError, OSError) as error:
                raise AgentFailed("The agent's process takes no input any more.") from error

    async def wait(self) -> int:
        """Wait for the exit and return the exit status. May be cancelled, and called again."""
        return await self._exit.wait()

    async def terminate(self) -> None:
        """Send SIGTERM, and wait for the exit for some seconds."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGTERM)
        await self._exits(TERM_TIME)

    async def close(self, interrupt: Callable[[], Awaitable[None]] | None = None) -> None:
        """End it and all that it started: ``interrupt``, close stdin, SIGTERM, SIGKILL; 8 s at most, usually far less.

        ``interrupt`` asks the running turn to stop, and waits for that. A cancelled close skips to SIGKILL, and still
        leaves nothing behind. May be called twice, also concurrently.
        """
        try:
            async with self._asking:
                if not self._asked:
                    self._asked = True
                    await self._ask_to_leave(interrupt)
        finally:
            await self._end()

    async def _ask_to_leave(self, interrupt: Callable[[], Awaitable[None]] | None) -> None:
        if interrupt is not None and self.returncode is None:
            with anyio.move_on_after(INTERRUPT_TIME), contextlib.suppress(AgentFailed):
                await interrupt()
        await self._stdin.close()
        if not await self._exits(STDIN_TIME):
            await self.terminate()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._kill()
            finally:
                for pipe in (self._stdin, self._stdout, self._stderr):
                    await pipe.close()

    async def _kill(self) -> None:
        async with self._killing:
            if self._gone:
                return
            dead = await kill_agents({self._folder: self._record}, KILL_TIME)
            if not dead and self.returncode is None:  # it can be killed without a search
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._gone = await self._exits(1) and dead
            if self._gone:
                await in_thread(partial(ProcessRecord.remove, self._folder))
            else:
                logger.error("agent process %d or a child of it could not be killed", self.pid)

    async def _exits(self, within: float) -> bool:
        with anyio.move_on_after(within):
            await self._exit.wait()
        return self.returncode is not None

    async def _drain_stderr(self) -> None:
        with contextlib.suppress(anyio.ClosedResourceError):
            while chunk := await self._stderr.receive(CHUNK):
                self._stderr_tail = (self._stderr_tail + chunk)[-STDERR_TAIL:]


def _unavailable(error: OSError) -> AgentUnavailable:
    about = f" ({os.fspath(error.filename)})" if isinstance(error.filename, str | os.PathLike) else ""
    text = f"The agent's process could not be started: {error.strerror or error}{about}."
    return AgentUnavailable(text, code="spawn_failed")

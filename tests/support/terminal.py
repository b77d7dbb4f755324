"""A program on a terminal of its own, as a person has it before them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import Process

from tests.support.limits import HANG_SECONDS

# Makes standard input the controlling terminal, so that Ctrl-C is a signal; then becomes the program.
_TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL);"  # which a `nohup` of the tests would have it ignore
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")
# A line editor switches bracketed paste on while it reads; then the keyboard is its own, and Ctrl-C is a key.
_EDITING = {"\x1b[?2004h": "<reading>", "\x1b[?2004l": "<read>"}
READING, READ = _EDITING.values()
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


@dataclass(slots=True)
class Terminal:
    process: Process
    fd: int
    _text: str = ""
    _seen: int = 0
    _raw: bytearray = field(default_factory=bytearray)

    async def until(self, text: str, within: float = HANG_SECONDS) -> str:
        """Return the program's output from here up to ``text``, without control sequences."""
        with anyio.move_on_after(within):
            while (found := self.text.find(text, self._seen)) < 0:
                if not await self._read():
                    break
            else:
                start, self._seen = self._seen, found + len(text)
                return self.text[start : self._seen]
        raise AssertionError(f"{text!r} did not come; since the last find came:\n{self.text[self._seen :]}")

    async def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    async def exit_status(self, within: float = HANG_SECONDS) -> int:
        with anyio.fail_after(within):
            while await self._read():
                pass
            return await self.process.wait()

    @property
    def text(self) -> str:
        """All that it wrote so far."""
        return self._text

    async def _read(self) -> bool:
        await anyio.wait_readable(self.fd)
        try:
            data = os.read(self.fd, 65_536)
        except OSError:  # nobody has the other end any more
            return False
        self._raw += data
        # An escape sequence or a character may have come in part only: look at all there is.
        text = _ESCAPES.sub(lambda found: _EDITING.get(found[0], ""), self._raw.decode(errors="replace"))
        self._text = text.replace("\r\n", "\n")
        return bool(data)


@asynccontextmanager
async def on_terminal(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> AsyncIterator[Terminal]:
    fd, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    try:
        process = await anyio.open_process(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            env={**env, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    try:
        async with process:
            try:
                yield Terminal(process, fd)
            finally:
                if process.returncode is None:
                    process.kill()
    finally:
        os.close(fd)

"""Arguments that only the process itself can read."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from portico.plugins.claude_code.arguments import Argument, PrivateArgument, opened
from tests.support.limits import HANG_SECONDS

SECRET = b"secret \xe2\x98\x83\n\0" + b"x" * (256 << 10)
READ = "import sys; sys.stdout.buffer.write(open(sys.argv[1].partition('=')[2], 'rb').read()); sys.stdin.read()"


@pytest.mark.parametrize("memory", [True, False])
def test_the_process_reads_what_its_arguments_do_not_say(
    memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not memory:  # as on a system that has no such files, or does not allow them
        monkeypatch.delattr(os, "memfd_create", raising=False)
    argv: list[Argument] = [sys.executable, "-S", "-c", READ, PrivateArgument("--file=/dev/fd/", SECRET)]
    with opened(argv) as (words, files):
        assert words[-1] == f"--file=/dev/fd/{files[0]}"
        process = subprocess.Popen(words, pass_fds=files, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.read(len(SECRET)) == SECRET
        assert b"secret" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0
    assert not os.path.exists(f"/dev/fd/{files[0]}")
    assert list(tmp_path.iterdir()) == []


def test_no_other_process_that_is_started_meanwhile_gets_the_files() -> None:
    with opened([PrivateArgument("", b"secret")]) as (_, files):
        done = subprocess.run(["ls", "/dev/fd"], stdout=subprocess.PIPE, check=True, text=True, close_fds=False)
        assert str(files[0]) not in done.stdout.split()


def test_it_is_not_told_by_accident() -> None:
    assert "secret" not in repr(PrivateArgument("--file=/dev/fd/", b"secret"))

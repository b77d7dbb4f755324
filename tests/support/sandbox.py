"""The sandbox, where it works on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio
import pytest

from portico.plugins.claude_code.arguments import Argument, opened
from portico.plugins.claude_code.sandbox import Sandbox, find_sandbox

ROOT = Path(__file__).parents[2]


async def working_sandbox(
    *, hidden: Iterable[Path] = (), visible: Iterable[Path] = (), roots: Iterable[Path] = ()
) -> Sandbox:
    """One in which tests' own executables can be seen; or the test is skipped where there is none."""
    programs = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
    try:
        return await find_sandbox(
            os.environ["PATH"],
            {"PATH": os.environ["PATH"]},
            visible=(*programs, *visible),
            hidden=hidden,
            roots=roots,
        )
    except LookupError as error:
        pytest.skip(f"no sandbox: {error}")


async def run_wrapped(command: Sequence[Argument], **options: Any) -> CompletedProcess[bytes]:
    """Run the result of `Sandbox.wrap` or `Containment.wrap` to its end; ``options`` are for `anyio.run_process`."""
    with opened(command) as (argv, files):
        return await anyio.run_process(argv, check=False, pass_fds=files, **options)


def write_failing_bwrap(program: Path, cwd: Path, words: str) -> None:
    """A bwrap that is the real one, but fails with these ``words`` where it is to start something in ``cwd``."""
    program.write_text(
        "#!/bin/sh\n"
        'number= before=; for word; do test "$before" = --args && number=$word; before=$word; done\n'
        "mounts=$(tr '\\0' ' ' < \"/proc/self/fd/$number\")\n"
        f'case "$mounts" in *\'--chdir {cwd} \'*) echo "{words}" >&2; exit 1;; esac\n'
        f'exec {shutil.which("bwrap")} "$@"\n'
    )
    program.chmod(0o755)

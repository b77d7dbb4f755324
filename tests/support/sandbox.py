"""The sandbox, where it works on this machine."""

from __future__ import annotations

import os
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
    """What `Sandbox.wrap` or `Containment.wrap` has made, run to its end; ``options`` are `anyio.run_process`'s."""
    with opened(command) as (argv, files):
        return await anyio.run_process(argv, check=False, pass_fds=files, **options)

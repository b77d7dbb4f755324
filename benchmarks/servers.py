"""Programs under measurement, each a process of its own on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TOKEN = "benchmark-benchmark-benchmark"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
TAIL = 30
"""Lines of a program's standard error that are shown where something fails."""
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    pid: int
    seconds_to_ready: float


def portico(**settings: object) -> AbstractContextManager[Server]:
    """`portico serve` of this source tree on a free port, with a data folder of its own."""
    return portico_of(Path(__file__).parents[1], **settings)


@contextmanager
def portico_of(tree: Path, /, **settings: object) -> Iterator[Server]:
    """The same, of another source tree."""
    with tempfile.TemporaryDirectory(prefix="portico-bench-") as folder:
        given = {
            "data_dir": folder,
            "port": 0,
            "auth_tokens": f"bench:{TOKEN}:admin",
            "log_level": "warning",
            **settings,
        }
        environment = {f"PORTICO_{name.upper()}": str(value) for name, value in given.items()}
        # -P: else the working directory, which may be another tree, comes first.
        with program(
            [sys.executable, "-P", "-m", "portico", "serve"], {**environment, "PYTHONPATH": str(tree)}
        ) as server:
            yield server


@contextmanager
def program(argv: list[str], environment: dict[str, str] | None = None) -> Iterator[Server]:
    """A program that prints a line with its ``http://...`` once it is ready.

    What it writes to standard error is kept from the rows, and shown where something fails.
    """
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ
    }
    with tempfile.TemporaryFile() as complaints:
        began = time.perf_counter()
        child = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=complaints, text=True, env={**kept, **(environment or {})}
        )
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if found := re.search(r"http://\S+", line):
                    yield Server(found[0], child.pid, time.perf_counter() - began)
                    return
            raise RuntimeError(f"{argv} ended before it was ready")
        except BaseException as error:
            if isinstance(error, Exception):
                _show(argv, complaints)
            child.send_signal(signal.SIGINT)  # a second signal, so that it does not drain first
            raise
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(30)
            finally:
                child.kill()
                assert child.stdout is not None
                child.stdout.close()


def _show(argv: list[str], complaints: IO[bytes]) -> None:
    """Print the end of what the program has complained about."""
    # Read at a position: to seek would move the place at which the program goes on writing.
    size = os.fstat(complaints.fileno()).st_size
    text = os.pread(complaints.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")
    lines = text.splitlines()[-TAIL:]
    print(f"the last words of {' '.join(argv[1:])}:", *(lines or ["(none)"]), sep="\n  ", file=sys.stderr)

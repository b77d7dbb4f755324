"""An agent that misbehaves on demand. Run it as `python fake_agent.py STEP...`; it takes the steps in order.

Steps, `NAME` or `NAME:VALUE`:

    say:TEXT        a line on stdout
    half:TEXT       the same without the line feed
    line:N          a line of N bytes on stdout
    complain:TEXT   a line on stderr
    flood:N         N bytes on stderr
    environ         its environment, as a line of JSON
    descriptors     the numbers of its open files, as a line of JSON
    defiant         from now on SIGTERM is ignored
    child:SECONDS   starts a sleeper in a session of its own
    daemon:SECONDS  starts one that is nobody's child any more
    bare:SECONDS    the same, and its environment is empty
    hidden:SECONDS  starts a shell whose environment is empty, and which starts one
    polite:FILE     from now on it makes that file at a SIGTERM, and ends
    await:FILE      goes on once that file is there
    echo            every line of stdin goes to stdout, until stdin ends
    hang            stays for ever, whatever happens to stdin
    exit:STATUS     ends at once
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def _write(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def _child(seconds: str, env: Mapping[str, str] | None = None) -> None:
    subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys, time; time.sleep(float(sys.argv[1]))", seconds],
        env=env,
        start_new_session=True,
    )


def _daemon(seconds: str, env: Mapping[str, str] | None = None) -> None:
    if (pid := os.fork()) == 0:
        os.setsid()
        _child(seconds, env)
        os._exit(0)
    os.waitpid(pid, 0)


def _echo(_: str) -> None:
    while line := sys.stdin.buffer.readline():
        _write(1, line)


def _hang(_: str) -> None:
    while True:
        time.sleep(3600)


def _polite(file: str) -> None:
    def leave(*_: object) -> None:
        Path(file).touch()
        sys.exit()

    signal.signal(signal.SIGTERM, leave)


def _await(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.01)


def _flood(size: str) -> None:
    block = (b"x" * 1023 + b"\n") * 64
    for _ in range(int(size) // len(block)):
        _write(2, block)


STEPS: Mapping[str, Callable[[str], object]] = {
    "say": lambda text: _write(1, text.encode() + b"\n"),
    "half": lambda text: _write(1, text.encode()),
    "line": lambda size: _write(1, b"x" * int(size) + b"\n"),
    "complain": lambda text: _write(2, text.encode() + b"\n"),
    "flood": _flood,
    "environ": lambda _: _write(1, json.dumps(dict(os.environ)).encode() + b"\n"),
    "descriptors": lambda _: _write(1, json.dumps(_descriptors()).encode() + b"\n"),
    "defiant": lambda _: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "child": _child,
    "daemon": _daemon,
    "bare": lambda seconds: _daemon(seconds, {}),
    "hidden": lambda seconds: subprocess.Popen(["/bin/sh", "-c", f"sleep {seconds}; :"], env={}),
    "polite": _polite,
    "await": _await,
    "echo": _echo,
    "hang": _hang,
    "exit": lambda status: sys.exit(int(status)),
}


def _descriptors() -> list[int]:
    found = []
    for number in range(1024):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.append(number)
    return found


if __name__ == "__main__":
    for word in sys.argv[1:]:
        name, _, value = word.partition(":")
        STEPS[name](value)

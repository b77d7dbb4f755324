"""Another user of the machine, who reads the command lines of all processes again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from tests.support.limits import HANG_SECONDS

NOBODY = 65534
LOOK = "while :; do grep -aohe '%s[a-z-]*' /proc/[0-9]*/cmdline; echo looked; sleep 0.1; done 2>/dev/null"
DECOY = "decoy"


class Onlooker:
    """``mark`` is hexadecimal; `seen` has what was on a command line right behind it, such as ``-token``."""

    def __init__(self, mark: str, found: Path) -> None:
        self._mark = mark
        self._found = found

    async def looked(self) -> None:
        """Wait until they have read all there is now."""
        rounds = self._rounds() + 2  # the one under way may be past what is new
        with anyio.fail_after(HANG_SECONDS):
            while self._rounds() < rounds:
                await anyio.sleep(0.02)

    def seen(self) -> set[str]:
        """Return the text that was seen, with a decoy that shows that nothing of the kind is overlooked."""
        return {line.removeprefix(self._mark) for line in self._lines() if line.startswith(self._mark)}

    def _rounds(self) -> int:
        return self._lines().count("looked")

    def _lines(self) -> list[str]:
        return self._found.read_text().splitlines()


@contextmanager
def looking_on(mark: str, folder: Path) -> Iterator[Onlooker]:
    """From the start of the block to its end. Root becomes another user for it; others can only look as themselves."""
    found = folder / "on-command-lines"
    pattern = f"{mark[:-1]}[{mark[-1]}]"  # which is not on their own command line as what it finds
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    decoy = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()", f"{mark}{DECOY}"]
    with (
        found.open("wb") as output,
        subprocess.Popen(decoy, stdin=subprocess.PIPE) as visible,
        subprocess.Popen(["/bin/sh", "-c", LOOK % pattern], stdout=output, cwd="/", **other) as looking,  # type: ignore[call-overload]
    ):
        try:
            yield Onlooker(mark, found)
        finally:
            looking.kill()
            visible.kill()

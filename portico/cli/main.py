"""The entry point of the program. Exit status: 0 is success, 1 failure, 2 wrong usage, 130 Ctrl-C.

It imports almost nothing itself, so that Ctrl-C is handled while everything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TextIO

from portico.cli.exit_status import STOPPED

SERVERS = ("serve", "demo")
"""The commands whose processes may leave orphans."""


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit."""
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(STOPPED))  # nothing has begun yet
    if sys.argv[1:2] and sys.argv[1] in SERVERS:
        _leave_the_orphans()
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # they may be closed
    from portico.cli.commands import commands
    from portico.cli.ending import status_of

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = commands.main(standalone_mode=False) or 0
        sys.stdout.flush()
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rest takes no time
        status = status_of(error)
        if status is None:
            raise
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")


def _leave_the_orphans() -> None:
    from portico.server.init_process import step_aside

    former = step_aside()
    if former is not None:
        from portico.config.load import renumber

        renumber(former)

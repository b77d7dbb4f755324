"""The message and the exit status of a command that failed."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

import click

from portico.cli.client.errors import ClientError
from portico.cli.exit_status import STOPPED
from portico.config.load import SettingsError
from portico.core.errors import PorticoError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def status_of(error: BaseException) -> int | None:
    """Return the exit status; report a user's mistake or a failing part in one line. None means a fault of ours."""
    statuses = [_status(leaf) for leaf in _leaves(error)]
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    return None if None in statuses else max(status for status in statuses if status is not None)


def _status(error: BaseException) -> int | None:
    match error:
        case SystemExit(code=int(code)) | click.exceptions.Exit(exit_code=code):
            return code
        case KeyboardInterrupt() | click.Abort():
            return STOPPED
        case click.ClickException():
            error.show()
            return error.exit_code
        case SettingsError():
            _say(error.lines)
            return 2
        case PorticoError() | ClientError():
            _say([str(error)])
            return 1
        case BrokenPipeError() if _left(sys.stdout) or _left(sys.stderr):
            return 1  # the reader of the output has gone, as `head` does
        case OSError() if error.errno in FULL:
            _say([f"can't write: {error.strerror}"])
            return 1
    return None


def _say(lines: list[str]) -> None:
    try:
        for line in lines:
            click.echo(f"portico: {line}", err=True)
    except OSError:
        return  # nobody can read the message


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _left(stream: TextIO) -> bool:
    """Tell whether a pipe has no reader any more."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _let_go(stream: TextIO) -> None:
    """Drop unwritten output: otherwise the interpreter would try once more at its end, and complain."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""Errors from third-party code, where a bare `BaseException` would end more than that code."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Strange(Exception):
    """The error that replaces a SystemExit, a KeyboardInterrupt, or a cancellation that nobody requested."""


@contextmanager
def strangers() -> Iterator[None]:
    """Let an `Exception` and a real cancellation of the running task through; raise `Strange` for everything else.

    Otherwise asyncio would stop the whole event loop for a SystemExit or a KeyboardInterrupt, and a task group would
    take a false cancellation for a normal end.
    """
    try:
        yield
    except (Exception, GeneratorExit):
        raise
    except asyncio.CancelledError as error:
        if _cancelled():
            raise
        raise Strange("CancelledError, though nobody has cancelled it") from error
    except BaseException as error:
        raise Strange(f"{type(error).__name__}: {error}") from error


def _cancelled() -> bool:
    task = asyncio.current_task()
    return anyio.current_effective_deadline() == -math.inf or (task is not None and task.cancelling() > 0)

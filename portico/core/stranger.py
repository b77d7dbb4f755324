"""What other people's code raises, where a bare `BaseException` would end more than that code."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Strange(Exception):
    """Stands for a SystemExit, a KeyboardInterrupt, or a cancellation that nobody has asked for."""


@contextmanager
def strangers() -> Iterator[None]:
    """Lets an `Exception` and a real cancellation of the running task through; raises `Strange` for all else.

    Left alone, asyncio would stop the whole event loop for the first two, and a task group takes the last one for an
    end as it should be.
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

"""How this process deals with memory while it serves."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_BYTES = 1024 * 1024
_M_MMAP_THRESHOLD = -3  # mallopt(3)


def give_back_what_is_large() -> None:
    """From now on what takes `LARGE_BYTES` or more goes back to the system as soon as it is not used any more.

    The GNU C library would learn from the first large one that such are kept in its heap; there many texts that grow
    side by side leave holes of several times their size.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


@contextmanager
def keeping_what_is_there() -> Iterator[None]:
    """In here nobody looks for garbage among what was there before, which would stop everything for 50 ms or more."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

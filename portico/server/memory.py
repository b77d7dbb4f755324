"""Memory management of this process while it serves."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_BYTES = 1024 * 1024
_M_MMAP_THRESHOLD = -3  # mallopt(3)


def give_back_what_is_large() -> None:
    """From now on, return blocks of `LARGE_BYTES` or more to the system as soon as they are freed.

    Otherwise the GNU C library, after the first large block, would keep such blocks in its heap, where many texts that
    grow side by side leave holes of several times their size.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


@contextmanager
def keeping_what_is_there() -> Iterator[None]:
    """Exclude existing objects from garbage collection in the block: a search of them stops everything for 50 ms or
    more.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

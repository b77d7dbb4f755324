"""Programs that not every machine has: a test that starts one says so, and is skipped in words where it is missing."""

from __future__ import annotations

import shutil

import pytest


def needs(program: str) -> pytest.MarkDecorator:
    """Skip the test where ``program`` is not on PATH."""
    return pytest.mark.skipif(
        shutil.which(program) is None,
        reason=f"there is no program {program} (on Debian and Ubuntu, `apt install {program}`)",
    )

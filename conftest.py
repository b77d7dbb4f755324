"""Loads the plugins that tell what ran, and what did not: `-p` would look before `pythonpath` is in force.

Collects without garbage collection: it would look at thousands of tests that stay, again and again.
"""

import gc
from collections.abc import Generator

import pytest

pytest_plugins = ["tests.report", "tests.skipped"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()

"""The one limit of every wait in a test."""

HANG_SECONDS = 120.0
"""A limit against hanging, never a measure: on a busy machine, what takes a second may take a minute.

Where a time is what a test is about, set the time limit of the server that must not pass above this one, or compare two
times that were measured in the same run. The limit of pytest (`timeout` in pyproject.toml) is above it.
"""

NEVER_SECONDS = 10 * HANG_SECONDS
"""For a time limit of the server that must not be what ends a wait: where it is, the test fails at its own limit."""

"""Loads the plugins that tell what ran, and what did not: `-p` would look before `pythonpath` is in force."""

pytest_plugins = ["tests.report", "tests.skipped"]

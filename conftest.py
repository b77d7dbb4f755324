"""Loads the plugin that tells what ran: `-p` would look for it before `pythonpath` is in force."""

pytest_plugins = ["tests.report"]

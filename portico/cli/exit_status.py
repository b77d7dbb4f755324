"""Exit statuses beside 0 (success), 1 (failure) and 2 (wrong usage)."""

STOPPED = 130
"""Ctrl-C: 128 + SIGINT, as in shells."""

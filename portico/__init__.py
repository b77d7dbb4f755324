"""Portico hosts long-lived Claude Code sessions and puts them on the network."""

from portico.plugins.markers import hookimpl

__version__ = "0.1.0"

__all__ = ["__version__", "hookimpl"]

"""The list of plugins, as lines for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from portico.plugins.manager import Plugin


def as_text(plugins: Sequence[Plugin]) -> Iterator[str]:
    """Yield one line per plugin: name, distribution and version, and what it registers, or why it is left out."""
    sources = [f"{plugin.source} {plugin.version or ''}".rstrip() for plugin in plugins]
    widths = max(len(plugin.name) for plugin in plugins), max(map(len, sources))
    for plugin, source in zip(plugins, sources, strict=True):
        yield f"{plugin.name:{widths[0]}}  {source:{widths[1]}}  {_what(plugin)}"


def as_json(plugins: Sequence[Plugin]) -> Iterator[str]:
    """Yield one JSON object per plugin: the members of `Plugin`."""
    for plugin in plugins:
        yield json.dumps(asdict(plugin))


def _what(plugin: Plugin) -> str:
    if plugin.disabled:
        return "disabled"
    if plugin.failure is not None:
        return f"FAILED: {plugin.failure}"
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in plugin.offers.items()) or "nothing"

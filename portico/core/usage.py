"""Token counts, added up over turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def add_usage(total: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add up numbers with the same name, also in nested mappings; for any other value, keep the newer one."""
    result = dict(total)
    for name, value in more.items():
        before = result.get(name)
        if isinstance(value, Mapping):
            result[name] = add_usage(before if isinstance(before, Mapping) else {}, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result[name] = value + (before if isinstance(before, int | float) else 0)
        else:
            result[name] = value
    return result

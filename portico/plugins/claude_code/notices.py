"""Lines of the CLI that change nothing, as notices for clients. Sans-IO."""

from __future__ import annotations

from typing import Any

from portico.core.events import Notice

Json = dict[str, Any]

RETRY = ("attempt", "max_retries", "retry_delay_ms", "error_status", "error")


def notice(line: Json) -> Notice | None:
    """Return the notice that a ``system`` or a ``rate_limit_event`` line stands for, or None."""
    match line.get("subtype", line.get("type")):
        case "api_retry":
            detail = {name: line[name] for name in RETRY if name in line}
            return Notice(type="notice", name="api_retry", detail=detail)
        case "compact_boundary":
            return Notice(type="notice", name="compacted", detail=line.get("compact_metadata"))
        case "informational":
            return Notice(type="notice", name="informational", detail=line.get("content"))
        case "rate_limit_event":
            return Notice(type="notice", name="rate_limit", detail=line.get("rate_limit_info"))
    return None

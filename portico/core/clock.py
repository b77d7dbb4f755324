"""Times as clients see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def rfc3339(*, seconds_from_now: float = 0) -> str:
    """Return the current time, or one so many seconds later, in UTC: ``2026-11-22T17:00:00.000Z``."""
    time = datetime.now(UTC) + timedelta(seconds=seconds_from_now)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")

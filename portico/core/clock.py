"""Times as clients see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def rfc3339(*, seconds_from_now: float = 0) -> str:
    """Return the current time, or one so many seconds later, in UTC: ``2026-11-22T17:00:00.000Z``."""
    return _written(datetime.now(UTC) + timedelta(seconds=seconds_from_now))


def rfc3339_at(seconds: float) -> str:
    """Return the time so many seconds after 1970, in the same form."""
    return _written(datetime.fromtimestamp(seconds, UTC))


def _written(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")

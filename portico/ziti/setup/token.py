"""Enrolment tokens, and a check that one is worth sending to its controller."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from portico.ziti.setup.setup_errors import EnrollFailed

LARGEST = 64 * 1024
"""Bytes of a token's file."""


def read_token(path: Path, now: datetime | None = None) -> str:
    """Return the token in a file. Raises `EnrollFailed` if no controller would accept it."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise EnrollFailed(f"{path} can't be read: {error.strerror}") from None
    token = data.decode("ascii", "replace").strip()
    payload = _payload(token)
    if payload is None or len(data) > LARGEST or not isinstance(payload.get("iss"), str):
        raise EnrollFailed(f"{path} is no enrolment token: one is a line that begins with eyJ")
    if payload.get("em") != "ott":
        raise EnrollFailed(
            f"{path} is for an enrolment of another kind ({payload.get('em')}); one-time tokens are taken"
        )
    expires = payload.get("exp")
    if isinstance(expires, int | float) and expires < (now or datetime.now(UTC)).timestamp():
        when = datetime.fromtimestamp(expires, UTC)
        raise EnrollFailed(
            f"the token in {path} expired on {when:%Y-%m-%d at %H:%M} UTC: `portico ziti setup` gets a new one"
        )
    return token


def _payload(token: str) -> dict[str, Any] | None:
    """Return the middle part of a JWT (RFC 7519), None if there is none. The library checks that it is genuine."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None

"""Check that the authenticators can be made with their settings."""

from __future__ import annotations

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok
from portico.core.errors import PorticoError

BUILT_IN = frozenset({"token", "none"})
"""Authenticators with checks of their own; making the first would also make a token."""


async def check(place: Place) -> Finding:
    names = [name for name in place.settings.auth if name not in BUILT_IN]
    for name in names:
        try:
            await anyio.to_thread.run_sync(place.registry.authenticator(name), place.context)
        except PorticoError as error:
            return failure(error.detail)
        except Exception as error:
            return failure(f"the authenticator {name} can't be made: {type(error).__name__}: {error}")
    return ok(f"callers are told apart by {', '.join(place.settings.auth)}")

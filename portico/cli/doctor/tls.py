"""Check that certificate and key fit together."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok
from portico.transports.base import TransportFailed
from portico.transports.tls import checked_context


async def check(place: Place) -> Finding:
    return await examine(place.settings.tls_cert, place.settings.tls_key)


async def examine(cert: Path | None, key: Path | None) -> Finding:
    if cert is None or key is None:
        return ok("TLS is not configured")
    try:
        await anyio.to_thread.run_sync(checked_context, cert, key)
    except TransportFailed as error:
        return failure(error.detail, "name a PEM chain and its key")
    return ok(f"{cert} and its key fit together")

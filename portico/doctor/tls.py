"""Do certificate and key fit together?"""

from __future__ import annotations

import ssl
from pathlib import Path

import anyio.to_thread

from portico.doctor.finding import Finding, Place, failure, ok


async def check(place: Place) -> Finding:
    cert, key = (getattr(place.settings, name, None) for name in ("tls_cert", "tls_key"))
    return await examine(cert, key)


async def examine(cert: Path | None, key: Path | None) -> Finding:
    if cert is None or key is None:
        return ok("TLS is not asked for")
    try:
        await anyio.to_thread.run_sync(_load, cert, key)
    except OSError as error:  # also ssl.SSLError
        return failure(f"{cert} and {key} can't be used: {error.strerror or error}", "name a PEM chain and its key")
    return ok(f"{cert} and its key fit together")


def _load(cert: Path, key: Path) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")

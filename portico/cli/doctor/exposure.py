"""Check who can reach the server, and what they need."""

from __future__ import annotations

from portico.cli.doctor.finding import Finding, Place, ok, warning
from portico.config.values import is_loopback


async def check(place: Place) -> Finding:
    settings = place.settings
    where = "a Unix socket" if settings.uds else settings.host
    if "none" in settings.auth:
        text = f"every user and every program on this machine may do everything here (auth=none on {where})"
        return warning(text, "leave PORTICO_AUTH out: callers then show a token")
    local = settings.uds is not None or is_loopback(settings.host) or "http" not in settings.networking_mode
    if not local and settings.tls_cert is None:
        text = f"tokens and everything else go over the network as plain text (host {settings.host})"
        return warning(text, "name tls_cert and tls_key, put a proxy with TLS before it, or serve over Ziti")
    return ok(f"callers show who they are ({', '.join(settings.auth)}), on {where}")

"""Checks of the callers that the server knows, and of their credentials."""

from __future__ import annotations

import stat

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.config.settings import Settings
from portico.config.values import is_loopback
from portico.core.errors import PorticoError, Unavailable
from portico.plugins.token_auth.first_token import read_token

SHORT = 16  # characters


async def check_tokens(place: Place) -> Finding:
    """Check that there are tokens that callers can show, and that they are hard to guess."""
    settings = place.settings
    if "token" not in settings.auth:
        return ok("no tokens are needed (auth)")
    for line in place.loaded.warnings:
        if "auth_tokens" in line.lower() or "auth-tokens" in line:
            return warning(line, "chmod 600 that file")
    short = [each.name for each in settings.auth_tokens if len(each.secret.get_secret_value()) < SHORT]
    if short:
        return warning(
            f"the token of {', '.join(short)} is short enough to be guessed", "`openssl rand -hex 32` makes one"
        )
    if settings.auth_tokens:
        return ok(f"tokens of {', '.join(each.name for each in settings.auth_tokens)}")
    path = settings.data_dir / "token"
    if not path.exists():
        return ok(f"an admin's token will be made at the first start, in {path}")
    try:
        read_token(settings.data_dir)
    except Unavailable as error:
        return failure(error.detail, f"delete {path}, and the next start makes a new one")
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        return warning(f"others on this machine can get at {path} (mode {mode:04o})", f"chmod 600 {path}")
    return ok(f"an admin's token is in {path}")


async def check_exposure(place: Place) -> Finding:
    """Check who can reach the server, and what they would need."""
    settings, modes = place.settings, place.settings.networking_mode
    dark = _services(settings) if "ziti" in modes else ""
    if not {"http", "websocket"} & set(modes):
        return ok(f"no address of this machine leads here; {dark or 'what ' + ', '.join(modes) + ' opens, it says'}")
    also = f"; {dark}" if dark else ""
    where = "a Unix socket" if settings.uds else settings.host
    if "none" in settings.auth:
        text = f"every user and every program on this machine may do everything here (auth=none on {where}){also}"
        return warning(text, "leave PORTICO_AUTH out: callers then show a token")
    local = settings.uds is not None or is_loopback(settings.host)
    if not local and settings.tls_cert is None:
        text = f"tokens and everything else go over the network as plain text (host {settings.host}){also}"
        return warning(text, "name tls_cert and tls_key, put a proxy with TLS before it, or serve over Ziti")
    return ok(f"callers show who they are ({', '.join(settings.auth)}), on {where}{also}")


def _services(settings: Settings) -> str:
    """Say who may come in over Ziti, and as whom."""
    told = []
    for service in settings.ziti_service_name:
        if service.principal:
            who = f"{service.principal}, an admin" if service.admin else service.principal
            told.append(f"who may dial the Ziti service {service.name} is {who}, without a token")
        elif settings.ziti_trust_caller:
            told.append(f"who may dial the Ziti service {service.name} is whoever they say, without a token")
        else:
            told.append(f"who may dial the Ziti service {service.name} shows a token")
    return ", ".join(told)


BUILT_IN = frozenset({"token", "none"})
"""Authenticators with checks of their own; making the first would also make a token."""


async def check_authenticators(place: Place) -> Finding:
    """Check that the other authenticators can be made with their settings."""
    names = [name for name in place.settings.auth if name not in BUILT_IN]
    for name in names:
        try:
            await anyio.to_thread.run_sync(place.registry.authenticator(name), place.context)
        except PorticoError as error:
            return failure(error.detail)
        except Exception as error:
            return failure(f"the authenticator {name} can't be made: {type(error).__name__}: {error}")
    return ok(f"callers are told apart by {', '.join(place.settings.auth)}")

"""Check that there are tokens for callers, and that they are hard to guess."""

from __future__ import annotations

import stat

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.core.errors import Unavailable
from portico.plugins.token_auth.first_token import read_token

SHORT = 16  # characters


async def check(place: Place) -> Finding:
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

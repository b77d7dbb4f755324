"""Finding the caller by a JSON Web Token (RFC 7519; RFC 8725 for the known mistakes)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jwt

from portico.core.errors import Unavailable
from portico.core.principal import Principal
from portico.plugins.jwt_auth.jwt_settings import JwtSettings
from portico.plugins.jwt_auth.keyset import KeySet, fits, parse, read_file, reader_of

if TYPE_CHECKING:
    from portico.plugins.context import Context

MAX_LENGTH = 16 * 1024
"""The largest length of a token, in characters."""
MAX_NAME = 128
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_BAD = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""The errors that a token can cause in the library: the caller chooses its numbers and its depth."""


class JwtAuthenticator:
    """An authenticator for tokens that ``settings.issuer`` signed with one of ``keys`` for ``settings.audience``."""

    name = "jwt"

    def __init__(self, settings: JwtSettings, keys: KeySet) -> None:
        self._settings = settings
        self._keys = keys

    async def authenticate(self, secret: str | None) -> Principal | None:
        if secret is None or len(secret) > MAX_LENGTH or not _FORM.fullmatch(secret):
            return None
        try:
            header = jwt.get_unverified_header(secret)
        except _BAD:
            return None
        algorithm, kid = header.get("alg"), header.get("kid")
        # We choose the algorithm, not the token: neither `none`, nor a public key used as an HMAC secret.
        if algorithm not in self._settings.algorithms or not isinstance(kid, str | None) or "crit" in header:
            return None
        key = await self._keys.find(kid)
        if key is None or not fits(key, algorithm):
            return None
        try:
            claims = jwt.decode(
                secret,
                jwt.PyJWK(dict(key), algorithm=algorithm).key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=self._settings.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
            return self._principal(claims)
        except _BAD:
            return None

    def _principal(self, claims: dict[str, Any]) -> Principal | None:
        name = claims.get(self._settings.name_claim)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            return None
        return Principal(name, self._is_admin(claims), expires=float(claims["exp"]) + self._settings.leeway)

    def _is_admin(self, claims: dict[str, Any]) -> bool:
        if self._settings.admin_claim is None:
            return False
        held = claims.get(self._settings.admin_claim)
        if isinstance(held, str):  # several in one string, as in OAuth's `scope`
            held = held.split()
        return isinstance(held, list) and self._settings.admin_value in held


def create(context: Context) -> JwtAuthenticator:
    """Make the authenticator. Raises `Unavailable` (``jwt_settings``)."""
    settings = cast(JwtSettings, context.plugin_settings["jwt"])
    lacking = [f"jwt_{name}" for name in ("jwks", "issuer", "audience") if not getattr(settings, name)]
    if settings.jwks is None or lacking:
        raise Unavailable(f"the authenticator jwt needs {', '.join(lacking)}", code="jwt_settings")
    if "://" not in settings.jwks:
        try:
            parse(read_file(Path(settings.jwks)))
        except (OSError, ValueError) as error:
            raise Unavailable(f"jwt_jwks={settings.jwks}: {error}", code="jwt_settings") from error
    keys = KeySet(reader_of(settings.jwks, Path.cwd()))
    context.reloads.add("the keys of jwt_jwks", lambda _: keys.expire())
    return JwtAuthenticator(settings, keys)

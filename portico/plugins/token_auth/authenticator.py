"""Who is calling, by the secret that is presented."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256

from portico.core.principal import Principal


class TokenAuthenticator:
    """Knows callers by their secrets."""

    name = "token"

    def __init__(self, callers: Iterable[tuple[str, Principal]]) -> None:
        self.replace(callers)

    def replace(self, callers: Iterable[tuple[str, Principal]]) -> None:
        """From now on know these, and no others."""
        self._callers = [(_digest(secret), principal) for secret, principal in callers]

    async def authenticate(self, secret: str | None) -> Principal | None:
        if secret is None:
            return None
        # All of them, always, and as digests of one length: the time taken tells nothing about any of them.
        presented = _digest(secret)
        known = [principal for digest, principal in self._callers if hmac.compare_digest(digest, presented)]
        return known[0] if known else None


class Anyone:
    """Takes everybody for one caller who may do everything."""

    name = "none"

    async def authenticate(self, secret: str | None) -> Principal | None:
        return Principal("anonymous", admin=True)


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()

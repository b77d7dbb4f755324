"""Finding the caller by the secret that it presents."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256

from portico.core.principal import Principal


class TokenAuthenticator:
    """An authenticator that knows callers by their secrets. It keeps only digests; bytes are taken as digests."""

    name = "token"

    def __init__(self, callers: Iterable[tuple[str | bytes, Principal]]) -> None:
        self.replace(callers)

    def replace(self, callers: Iterable[tuple[str | bytes, Principal]]) -> None:
        """From now on, accept these callers and no others."""
        self._callers = [(key if isinstance(key, bytes) else _digest(key), principal) for key, principal in callers]

    async def authenticate(self, secret: str | None) -> Principal | None:
        if secret is None:
            return None
        # Compare all of them, always, and as digests of one length, so that the time taken reveals nothing about any of
        # them.
        presented = _digest(secret)
        known = [principal for digest, principal in self._callers if hmac.compare_digest(digest, presented)]
        return known[0] if known else None

    def knows(self, principal: Principal) -> bool:
        """Tell whether ``principal`` still has a token."""
        return any(known == principal for _, known in self._callers)


class Anyone:
    """An authenticator that takes everybody for one caller who may do everything."""

    name = "none"

    async def authenticate(self, secret: str | None) -> Principal | None:
        return Principal("anonymous", admin=True)


def _digest(secret: str) -> bytes:
    """Hash with SHA-256. The number of possible secrets stops guessing, so a slow hash is not needed."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()

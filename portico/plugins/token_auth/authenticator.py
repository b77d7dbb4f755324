"""Who is calling, by the secret that is presented."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256

from portico.core.principal import Principal


class TokenAuthenticator:
    """Knows callers by their secrets, of which it keeps digests only; these may be given as they are (bytes)."""

    name = "token"

    def __init__(self, callers: Iterable[tuple[str | bytes, Principal]]) -> None:
        self.replace(callers)

    def replace(self, callers: Iterable[tuple[str | bytes, Principal]]) -> None:
        """From now on know these, and no others."""
        self._callers = [(key if isinstance(key, bytes) else _digest(key), principal) for key, principal in callers]

    async def authenticate(self, secret: str | None) -> Principal | None:
        if secret is None:
            return None
        # All of them, always, and as digests of one length: the time taken tells nothing about any of them.
        presented = _digest(secret)
        known = [principal for digest, principal in self._callers if hmac.compare_digest(digest, presented)]
        return known[0] if known else None

    def knows(self, principal: Principal) -> bool:
        """Whether ``principal`` has a token still."""
        return any(known == principal for _, known in self._callers)


class Anyone:
    """Takes everybody for one caller who may do everything."""

    name = "none"

    async def authenticate(self, secret: str | None) -> Principal | None:
        return Principal("anonymous", admin=True)


def _digest(secret: str) -> bytes:
    """SHA-256. What guesses is stopped by the number of secrets that there may be, not by a slow hash."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()

"""Finding the caller by the secret that it presents."""

from __future__ import annotations

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
        self._callers: dict[bytes, Principal] = {}
        for key, principal in callers:
            self._callers.setdefault(key if isinstance(key, bytes) else _digest(key), principal)
        self._principals = frozenset(self._callers.values())

    async def authenticate(self, secret: str | None) -> Principal | None:
        if secret is None:
            return None
        # One look-up, however many callers there are. Nobody can choose digests, and the hash table's own hash of one
        # has a key, so that the time taken reveals nothing about any of them.
        return self._callers.get(_digest(secret))

    def knows(self, principal: Principal) -> bool:
        """Tell whether ``principal`` still has a token."""
        return principal in self._principals


class Anyone:
    """An authenticator that takes everybody for one caller who may do everything."""

    name = "none"

    async def authenticate(self, secret: str | None) -> Principal | None:
        return Principal("anonymous", admin=True)


def _digest(secret: str) -> bytes:
    """Hash with SHA-256. The number of possible secrets stops guessing, so a slow hash is not needed."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()

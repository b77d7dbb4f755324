"""The issuer's public keys (RFC 7517), read again when a token names a key that is not among them."""

from __future__ import annotations

import json
import logging
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
from anyio import to_thread
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from portico.core.errors import Unavailable

MAX_BYTES = 1024 * 1024
MAX_KEYS = 100
FETCH_SECONDS = 5.0
FRESH_SECONDS = 3600.0
"""The keys are read again after this time: a key that has disappeared is no longer valid."""
RETRY_SECONDS = 10.0
"""The shortest time between two reads, whatever unknown keys callers name."""
RSA_BITS = 2048

log = logging.getLogger("portico.jwt")


class KeySet:
    """A set of keys. ``read`` returns the text of a JWKS. While it fails, the earlier keys stay in use."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], *, now: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._now = now
        self._keys: Mapping[str | None, Mapping[str, Any]] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading = anyio.Lock()
        self._expired = False  # whether `expire` was called during a read

    async def find(self, kid: str | None) -> Mapping[str, Any] | None:
        """Return the key with this id; without an id, the only key if there is just one. None if there is no such key.

        Raises `Unavailable` (``jwks_unavailable``).
        """
        if self._read_at is None or (not self._reading.locked() and self._is_old()) or self._get(kid) is None:
            await self._refresh()
        if self._read_at is None:
            raise Unavailable("the issuer's keys are not available now", code="jwks_unavailable")
        return self._get(kid)

    def expire(self) -> None:
        """Read the keys again for the next caller."""
        self._expired = True
        self._tried_at = None
        if self._read_at is not None:
            self._read_at = float("-inf")

    def _get(self, kid: str | None) -> Mapping[str, Any] | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _is_old(self) -> bool:
        return self._read_at is not None and self._now() - self._read_at > FRESH_SECONDS

    async def _refresh(self) -> None:
        asked_at = self._now()
        async with self._reading:
            if self._tried_at is not None and self._tried_at > asked_at - RETRY_SECONDS:
                return  # another caller has just read them
            # If a caller left, the next one would have to start the read again.
            self._expired = False
            with anyio.CancelScope(shield=True):
                try:
                    with anyio.fail_after(FETCH_SECONDS):
                        self._keys = parse(await self._read())
                    self._read_at = self._now()
                except (OSError, ValueError, TimeoutError, httpx.HTTPError) as error:
                    log.warning("the issuer's keys can't be read: %s: %s", type(error).__name__, error)
                self._tried_at = self._now()
            if self._expired:  # the keys just read may be older than that
                self.expire()


def parse(text: bytes) -> Mapping[str | None, Mapping[str, Any]]:
    """Return the usable public keys by id. Raises ValueError if there is none."""
    try:
        entries = json.loads(text)["keys"]
        entries = [entry for entry in entries if _usable(entry)][:MAX_KEYS]
    except (TypeError, KeyError, RecursionError):
        raise ValueError("it is no JWKS") from None
    if not entries:
        raise ValueError("there is no usable key in it")
    found: dict[str | None, Mapping[str, Any]] = {}
    for entry in entries:
        found.setdefault(entry.get("kid"), entry)
    return found


def _usable(entry: Any) -> bool:
    """Tell whether this is a public key for verifying signatures, and strong enough."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str | None):
        return False
    if entry.get("kty") not in ("RSA", "EC", "OKP") or "d" in entry:  # no shared secret, no private key
        return False
    if entry.get("use", "sig") != "sig":
        return False
    try:
        key = jwt.PyJWK(entry, algorithm=algorithm_of(entry)).key
        for_this = "verify" in entry.get("key_ops", ["verify"])
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return for_this and (not isinstance(key, RSAPublicKey) or key.key_size >= RSA_BITS)


def algorithm_of(entry: Mapping[str, Any]) -> str:
    """Return an algorithm for this key: its own ``alg``, or else the one for its kind."""
    by_kind = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}.get(str(entry.get("crv")), "EdDSA")
    return str(entry.get("alg") or ("RS256" if entry.get("kty") == "RSA" else by_kind))


def fits(entry: Mapping[str, Any], algorithm: str) -> bool:
    """Tell whether this key may verify signatures of ``algorithm``. The key decides its kind, not the token."""
    own = algorithm_of(entry)
    if entry.get("alg") is None and entry.get("kty") == "RSA":
        return algorithm[:2] in ("RS", "PS")
    return algorithm == own


def read_file(path: Path) -> bytes:
    """Read a regular file. Raises OSError, and ValueError for anything else: a pipe could block the start, or a caller,
    for ever.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def reader_of(source: str, folder: Path) -> Callable[[], Awaitable[bytes]]:
    """Return a function that reads ``source``: a URL, or a file, which may be relative to ``folder``."""
    if "://" not in source:
        return lambda: to_thread.run_sync(read_file, folder / source, abandon_on_cancel=True)

    async def fetch() -> bytes:
        # Redirects are not followed: one could lead from https to elsewhere.
        async with (
            httpx.AsyncClient(timeout=FETCH_SECONDS, trust_env=False) as client,
            client.stream("GET", source, headers={"accept-encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"the answer is {answer.status_code}")
            data = bytearray()
            async for part in answer.aiter_raw():
                data += part
                if len(data) > MAX_BYTES:
                    raise ValueError(f"it is larger than {MAX_BYTES} bytes")
            return bytes(data)

    return fetch

"""Whether a file can be a Ziti identity. The library is asked only then: 0.6.0 crashes on JSON that lacks a field."""

from __future__ import annotations

import json
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LARGEST = 1024 * 1024
"""Bytes."""


class IdentityError(Exception):
    """The text names the file and says what is wrong with it."""


def check_identity(path: Path, now: datetime | None = None) -> None:
    """Raises `IdentityError` for what cannot heal: no such file, not an identity, expired, or readable for others."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise IdentityError(f"{path} is not a file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise IdentityError(f"there is no identity file {path}") from None
    except OSError as error:
        raise IdentityError(f"the identity file {path} can't be read: {error.strerror}") from None
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise IdentityError(f"others on this machine can get at the private key in {path} (mode {mode}): chmod 600 it")
    try:
        check_content(data, now)
    except ValueError as error:
        raise IdentityError(f"{path} can't be used as a Ziti identity: {error}") from None


def check_content(data: bytes, now: datetime | None = None) -> None:
    """Raises ValueError, whose text says why the library could not use an identity of this content."""
    if len(data) > LARGEST:
        raise ValueError("it is too large")
    if data.startswith(b"eyJ"):
        raise ValueError("it is an enrolment token, which `portico ziti enroll` trades for one")
    try:
        identity: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    keys = identity.get("id") if isinstance(identity, dict) else None
    if not isinstance(keys, dict):
        raise ValueError("it lacks the field id")
    for name, value in (("ztAPI", identity.get("ztAPI")), ("id.cert", keys.get("cert")), ("id.key", keys.get("key"))):
        if not isinstance(value, str) or not value:
            raise ValueError(f"it lacks the field {name}")
    if not isinstance(keys.get("ca", ""), str | None):
        raise ValueError("its field id.ca is no text")
    controller = urlsplit(identity["ztAPI"])
    if controller.scheme != "https" or not controller.hostname:
        raise ValueError("its field ztAPI is no https:// address")
    until = _valid_until(keys["cert"])
    if until is not None and until < (now or datetime.now(UTC)):
        raise ValueError(f"its certificate expired on {until:%Y-%m-%d}: enrol it again")


def _valid_until(certificate: str) -> datetime | None:
    """The end of validity of ``pem:`` text. None where the certificate is elsewhere, as in ``file://`` or ``pkcs11://``."""
    head, found, _ = certificate.partition("-----BEGIN CERTIFICATE-----")
    if not found:
        if head.startswith("pem:"):
            raise ValueError("there is no certificate in its field id.cert")
        return None
    text = certificate[len(head) :].partition("-----END CERTIFICATE-----")
    try:
        return _not_after(ssl.PEM_cert_to_DER_cert(text[0] + text[1]))
    except (ValueError, IndexError):
        raise ValueError("its certificate is damaged") from None


def _not_after(der: bytes) -> datetime:
    """``tbsCertificate.validity.notAfter`` (RFC 5280, 4.1)."""
    _, certificate, _ = _element(der)
    _, fields, _ = _element(certificate)
    if fields[0] == 0xA0:  # the version, which may be missing
        _, _, fields = _element(fields)
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, fields = _element(fields)
    _, validity, _ = _element(fields)
    _, _, rest = _element(validity)
    tag, value, _ = _element(rest)
    text = value.decode("ascii")
    if tag == 0x17:  # UTCTime, whose years are of 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag, value, and what follows."""
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if start + length > len(der):
        raise ValueError("cut short")
    return der[0], der[start : start + length], der[start + length :]

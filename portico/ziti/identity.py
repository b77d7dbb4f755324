"""A check of an identity file before Ziti's library reads it: the library crashes on some, and hardly says why."""

from __future__ import annotations

import datetime
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

LARGEST_BYTES = 1024 * 1024


class IdentityError(Exception):
    """An identity can't be used. The text says what to do."""


def check_identity(path: Path) -> None:
    """Raise `IdentityError`, which names the file, if the identity in it can't be used."""
    try:
        check_content(_read(path))
    except IdentityError as error:
        raise IdentityError(f"the Ziti identity {path} can't be used: {error}") from error


def check_content(data: bytes) -> None:
    """Raise `IdentityError` if ``data`` is not an identity that can be used."""
    if len(data) > LARGEST_BYTES:
        raise IdentityError("it is too large for an identity")
    if data.startswith(b"eyJ"):
        raise IdentityError("it is an enrolment token, which `portico ziti enroll` trades for one")
    try:
        content = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("id"), dict):
        raise IdentityError("it is no enrolled identity: enroll one, and name the JSON file that this makes")
    if not re.match(r"https?://[^/\s]", str(content.get("ztAPI"))):
        raise IdentityError("it does not name its controller (ztAPI): enroll it again")
    for name, what in (("cert", "certificate"), ("key", "key")):
        if not isinstance(content["id"].get(name), str) or not content["id"][name]:
            raise IdentityError(f"it has no {what} (id.{name}): enroll it again")
    if not isinstance(content["id"].get("ca", ""), str | None):
        raise IdentityError("its authorities (id.ca) are not text: enroll it again")
    _check_certificate(content["id"])


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise IdentityError("it is not a file")
            _check_mode(path, status)
            return file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise IdentityError("there is no such file") from None
    except IsADirectoryError:
        raise IdentityError("it is not a file") from None
    except OSError as error:
        raise IdentityError(f"it can't be read: {error.strerror}") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer


def _check_mode(path: Path, status: os.stat_result) -> None:
    if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
        raise IdentityError(f"others on this machine can get at its key (mode {mode:04o}): chmod 600 {path}")


def _check_certificate(identity: dict[str, Any]) -> None:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise IdentityError(f"{error.name} is missing, which reads it: pip install 'portico-server[ziti]'") from error
    try:
        pem = _pem(identity["cert"])
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise IdentityError("its certificate (id.cert) is not valid: enroll it again") from error
    now, last = datetime.datetime.now(datetime.UTC), certificate.not_valid_after_utc
    if last < now:
        raise IdentityError(f"its certificate has expired ({last:%Y-%m-%d %H:%M} UTC): enroll it again")
    if re.match(r"(?!pem:|file:)[a-z][a-z0-9+.-]+:", identity["key"]):
        return  # the key is in a hardware token or a keychain, which only the library can use
    try:
        key = load_pem_private_key(_pem(identity["key"], private=True).encode(), None)
    except (ValueError, TypeError) as error:
        raise IdentityError("its key (id.key) is not valid: enroll it again") from error
    if key.public_key() != certificate.public_key():
        raise IdentityError("its key and its certificate do not belong together: enroll it again")


def _pem(value: str, *, private: bool = False) -> str:
    """Return the PEM of ``pem:TEXT`` or in ``file:PATH``, the two forms of ziti-sdk-c."""
    if value.startswith("pem:"):
        return value.removeprefix("pem:")
    if value.startswith("-----BEGIN"):
        return value
    other = Path(value.removeprefix("file:").removeprefix("//"))
    try:
        if private:
            _check_mode(other, other.stat())
        return other.read_text("ascii")
    except OSError as error:
        raise IdentityError(f"it refers to {other}, which can't be read: {error.strerror}") from error

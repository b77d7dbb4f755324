"""TLS: the server's certificate, which is checked before use, and can be changed while the server runs."""

from __future__ import annotations

import logging
import ssl
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from portico.transports.base import TransportFailed

ALPN = ["http/1.1"]
_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID (openssl-verify)

log = logging.getLogger("portico.tls")


class Tls:
    """The key pair for new connections. ``context`` stays the same object; `load` changes the pair behind it."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Load and check the pair. Raises `TransportFailed`."""
        self._current = checked_context(certificate, key)
        self.context = _context()
        self.context.load_cert_chain(certificate, key)  # without a pair OpenSSL would not shake hands at all
        # Only this way a handshake gets the whole new pair or the whole old one, never half of each.
        self.context.sni_callback = self._choose

    def load(self, certificate: Path | None, key: Path | None) -> None:
        """Use this pair for new handshakes; open connections keep theirs. Raises `TransportFailed`."""
        if certificate is None or key is None:
            raise TransportFailed("tls_cert and tls_key can't be unset while the server runs")
        self._current = checked_context(certificate, key)

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current


def checked_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context with this pair of PEM files. Raises `TransportFailed`, which says what is wrong.

    Logs a warning if other users of this machine can read the key.
    """
    chain = _read(certificate, "tls_cert")
    _read(key, "tls_key")
    client, context = _client(_first_certificate(chain, certificate), certificate), _context()
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _Encrypted:
        raise TransportFailed(f"tls_key: {key} is encrypted; a server has nobody to ask for its password") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TransportFailed(f"tls_key: {key} is not the key of {certificate}") from None
        raise TransportFailed(f"tls_key: {key} holds no private key that can be used") from None
    _shake_hands(client, context, certificate)
    if (mode := stat.S_IMODE(key.stat().st_mode)) & 0o077:
        log.warning("tls_key: others on this machine can get at %s (mode %04o); chmod 600 it", key, mode)
    return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)
    return context


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted  # OpenSSL would ask on the terminal


def _read(path: Path, setting: str) -> str:
    try:
        if not path.is_file():
            raise TransportFailed(f"{setting}: {path} is {'no file' if path.exists() else 'not there'}")
        return path.read_text()
    except OSError as error:
        raise TransportFailed(f"{setting}: {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TransportFailed(f"{setting}: {path} is not PEM") from None


def _first_certificate(chain: str, path: Path) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    _, found, rest = chain.partition(begin)
    body, ended, _ = rest.partition(end)
    if not (found and ended):
        raise TransportFailed(f"tls_cert: {path} holds no certificate in PEM")
    return begin + body + end + "\n"


def _client(leaf: str, path: Path) -> ssl.SSLContext:
    """Return a client's context that trusts this certificate, and nothing else."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cadata=leaf)
    except (ssl.SSLError, ValueError):
        raise TransportFailed(f"tls_cert: {path} holds no certificate that can be read") from None
    return client


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, path: Path) -> None:
    """Connect ``client`` to ``server`` in memory: a client that trusts this certificate must get a connection today."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    try:
        for side in sides * 2:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (_EXPIRED, _NOT_YET):
            when = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
            raise TransportFailed(f"tls_cert: {path} {when}") from None
        raise TransportFailed(f"tls_cert: {path} can't be a server's: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise TransportFailed(f"tls_cert: {path} can't be used: {error.reason or error}") from None
    shown = sides[0].getpeercert() or {}
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
    log.info("tls_cert: %s is valid until %s", path, until.date())

"""Certificates of an authority of the test's own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


@dataclass(slots=True)
class Certificates:
    """Files in ``folder``; ``cafile`` is what a client is to trust."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    @property
    def cafile(self) -> Path:
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(path)
        return path

    def issue(self, name: str = "server", *, until: datetime | None = None) -> tuple[Path, Path]:
        """A certificate with its chain, and its key (mode 0600)."""
        made = self.authority.issue_cert("localhost", "127.0.0.1", not_after=until)
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
        key.touch(mode=0o600)
        key.write_bytes(made.private_key_pem.bytes())
        return certificate, key

    def encrypted(self, key: Path) -> Path:
        """The same key, with a password."""
        read = serialization.load_pem_private_key(key.read_bytes(), None)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        path = key.with_suffix(".encrypted")
        path.write_bytes(read.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
        return path

    def client(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context

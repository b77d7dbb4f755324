"""Ziti identities as an enrolment makes them, but for a controller that knows them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def identity(controller: str = "https://127.0.0.1:1280", *, days: float = 1, **fields: Any) -> dict[str, Any]:
    """One whose certificate is good for so many days more. ``fields`` are further ones."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    pem = "pem:" + certificate.public_bytes(serialization.Encoding.PEM).decode()
    form = serialization.PrivateFormat.PKCS8
    secret = "pem:" + key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    return {"ztAPI": controller, "id": {"key": secret, "cert": pem, "ca": pem}, **fields}


def write(path: Path, content: Any, mode: int = 0o600) -> Path:
    path.touch()
    path.chmod(mode)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path

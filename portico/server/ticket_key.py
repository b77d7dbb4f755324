"""The key for signing tickets: made at the first start, and kept, so that tickets outlive a restart."""

from __future__ import annotations

import secrets
from pathlib import Path

from portico.core.errors import Unavailable
from portico.core.files import write_once
from portico.core.tickets import KEY_BYTES


def ticket_key(data_dir: Path) -> bytes:
    """Return the key in the file ``ticket_key`` of the data folder. Raises `Unavailable` (``ticket_key``)."""
    path = data_dir / "ticket_key"
    try:
        if not path.exists():
            write_once(path, secrets.token_hex(KEY_BYTES))
        with path.open("rb") as file:
            key = bytes.fromhex(file.read(1024).decode("ascii"))
    except OSError as error:
        raise Unavailable(f"cannot use the key file {path}: {error.strerror}", code="ticket_key") from error
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise Unavailable(
            f"the key file {path} holds no key; delete it, and the next start makes one", code="ticket_key"
        )
    return key

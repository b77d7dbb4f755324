"""The admin token for an operator who sets none. It is kept in the file ``token`` of the data folder."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from portico.core.errors import Unavailable
from portico.core.files import write_once

_FORM = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")  # 16: a shorter one was cut off, or can be guessed


def read_token(data_dir: Path) -> str:
    """Return the token that was made. Raises `Unavailable` (``token_file``) if there is none, or it is not valid."""
    token = _read(data_dir / "token")
    if token is None:
        detail = f"there is no token file {data_dir / 'token'}: no server has made one there (or has auth_tokens)"
        raise Unavailable(detail, code="token_file")
    return token


def first_token(data_dir: Path) -> str:
    """Return the token; make it if there is none. Raises `Unavailable` (``token_file``)."""
    path = data_dir / "token"
    if (token := _read(path)) is not None:
        return token
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_once(path, secrets.token_urlsafe(32))
    except OSError as error:
        raise Unavailable(f"cannot write the token file {path}: {error.strerror}", code="token_file") from error
    return read_token(data_dir)


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            text = file.read(1024).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"cannot read the token file {path}: {error.strerror}", code="token_file") from error
    if not _FORM.fullmatch(text):
        detail = f"the token file {path} holds no token; delete it, and the next start makes a new one"
        raise Unavailable(detail, code="token_file")
    return text

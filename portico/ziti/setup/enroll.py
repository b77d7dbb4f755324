"""``portico ziti enroll``: turns a one-time token into an identity file, which nobody else can read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from portico.ziti.identity import IdentityError, check_content
from portico.ziti.native.library_process import Child, ChildFailed, ChildHung
from portico.ziti.native.limits import ENROLL_SECONDS
from portico.ziti.setup.setup_errors import EnrollFailed
from portico.ziti.setup.token import read_token


async def enroll(token_file: Path, out: Path, environment: Mapping[str, str], *, force: bool = False) -> None:
    """Write the identity to ``out``, whole or not at all, with mode 0600. Replace an existing file only with ``force``.

    The file is made before the token is used up: if it can't be made, the token stays valid. Raises `EnrollFailed`.
    """
    token = read_token(token_file)
    draft, file = _draft(out, force)
    try:
        with file:
            identity = await _trade(token, environment)
            file.write(identity)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(out)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise EnrollFailed(f"{out} can't be written: {error.strerror}, and the token is used up") from None
        raise


def _draft(out: Path, force: bool) -> tuple[Path, BinaryIO]:
    if out.exists() and not (force and out.is_file()):
        hint = ": --force overwrites it, and the private key in it is lost" if out.is_file() else ""
        raise EnrollFailed(f"{out} is there already{hint}")
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        return draft, os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise EnrollFailed(f"{out} can't be written: {error.strerror}") from None


async def _trade(token: str, environment: Mapping[str, str]) -> bytes:
    try:
        child = Child.start("portico.ziti.setup.enroller", environment=environment)
        try:
            child.send({"token": token})
            answer, _ = await child.answer(ENROLL_SECONDS, "enrolling")
        finally:
            await child.close()
    except ChildFailed as error:
        hint = (
            "; is the controller up, and is it the one that has signed the token?"
            if isinstance(error, ChildHung)
            else ""
        )
        raise EnrollFailed(f"it is not enrolled: {error}{hint}") from None
    if "failed" in answer:
        raise EnrollFailed(f"it is not enrolled: {answer['failed']}")
    identity: bytes = answer["identity"].encode()
    try:
        check_content(identity)
    except IdentityError as error:
        raise EnrollFailed(f"what the controller gave is no identity: {error}") from None
    return identity

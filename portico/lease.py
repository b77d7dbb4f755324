"""The hold that one server has on its data folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portico.core.errors import Unavailable


@contextmanager
def hold(data_dir: Path) -> Iterator[None]:
    """Make ``data_dir`` (mode 0700) and keep it for this process; the kernel lets go when the process ends.

    Two servers on one folder would take each other's agents for leftovers. Raises `Unavailable` (``data_dir_in_use``,
    ``data_dir_unusable``).
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        detail = f"the data folder {data_dir} cannot be used: {error.strerror}; choose another with PORTICO_DATA_DIR"
        raise Unavailable(detail, code="data_dir_unusable") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 64, 0).decode(errors="replace").strip() or "unknown"
            detail = f"the data folder {data_dir} is in use by another server (process {holder})"
            raise Unavailable(detail, code="data_dir_in_use") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


@contextmanager
def advertise(data_dir: Path, url: str, api_prefix: str) -> Iterator[None]:
    """Tell clients on this machine where the server is, in ``data_dir/server.json`` (mode 0600), while it is there."""
    path = data_dir / "server.json"
    text = json.dumps({"url": url, "api_prefix": api_prefix, "pid": os.getpid()})
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)

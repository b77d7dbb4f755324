"""The lease of one server on its data folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from portico.core.errors import Unavailable
from portico.server.data_format import check_format, note_format


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease on ``data_dir``. ``lock`` is the descriptor of ``data_dir/lock``."""

    data_dir: Path
    lock: int

    def check(self) -> str | None:
        """Return what is wrong, for people; None while the folder at this path is still the leased one.

        Once the folder has been deleted, moved away or mounted over, new data goes where nobody finds it, and another
        server can start in its place. Asks the file system twice.
        """
        try:
            ours = os.path.samestat(os.fstat(self.lock), (self.data_dir / "lock").stat(follow_symlinks=False))
        except OSError as error:
            return f"the data folder {self.data_dir} is not there any more: {error.strerror}"
        return None if ours else f"the data folder {self.data_dir} is not the one any more that this server started on"


@contextmanager
def hold(data_dir: Path) -> Iterator[Lease]:
    """Make ``data_dir`` (mode 0700) and lease it for this process; the kernel releases it when the process ends.

    Two servers on one folder would take each other's agents for leftovers. Raises `Unavailable` (``data_dir_in_use``,
    ``data_dir_unusable``, ``data_dir_too_new``). If it is too new, no file is changed.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            check_format(data_dir)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            note_format(data_dir)
        except BlockingIOError:
            holder = os.pread(lock, 64, 0).decode(errors="replace").strip() or "unknown"
            detail = f"the data folder {data_dir} is in use by another server (process {holder})"
            raise Unavailable(detail, code="data_dir_in_use") from None
        except OSError as error:
            raise _unusable(data_dir, error) from error
        yield Lease(data_dir, lock)
    finally:
        os.close(lock)


@contextmanager
def advertise(data_dir: Path, url: str, api_prefix: str, tls_cert: Path | None = None) -> Iterator[None]:
    """Tell clients on this machine the server's address, in ``data_dir/server.json`` (mode 0600), inside the block.

    The file also names the server's TLS certificate, so that clients need not know its signer or its host name.

    Raises `Unavailable` (``data_dir_unusable``).
    """
    path = data_dir / "server.json"
    entry = {"url": url, "api_prefix": api_prefix, "pid": os.getpid()}
    if tls_cert is not None and url.startswith("https:"):
        entry["tls_cert"] = str(tls_cert)
    text = json.dumps(entry)
    draft = path.with_suffix(".new")
    try:
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # by now the file may be another server's, or the folder may be gone
            if path.read_text() == text:
                path.unlink()


def _unusable(data_dir: Path, error: OSError) -> Unavailable:
    detail = f"the data folder {data_dir} cannot be used: {error.strerror}; choose another with PORTICO_DATA_DIR"
    return Unavailable(detail, code="data_dir_unusable")

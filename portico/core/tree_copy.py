"""A copy of a workspace: what an agent may have put there can neither lead the copy elsewhere nor make it endless."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

from portico.core.directory import Directory
from portico.core.errors import TooLarge
from portico.core.git_folders import pointer

MAX_BYTES = 1024 * 1024 * 1024
MAX_ENTRIES = 100_000
MAX_DEPTH = 100
MAX_SECONDS = 60.0
"""The limits of a copy."""

_CHUNK = 1024 * 1024
_LEFT_OUT = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO}
"""The errors of an entry that can't be read, or is not what it was a moment ago."""


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files, folders and links of ``source`` into ``target``, an empty folder.

    Links are copied as they are. Mounts, devices, pipes and sockets are left out, and so is what can't be read, or
    goes meanwhile: an agent may work in ``source``. The ``.git`` of a worktree or a submodule is left out if its git
    folder would not be copied too: git in the copy would change the index and the branch of the original. Raises
    `TooLarge` (``workspace_too_large``) and OSError.
    """
    with Directory.open(source) as found, Directory.open(target) as made:
        _Copy(found.mount).folder(found, made, Path())


class _Copy:
    def __init__(self, mount: str) -> None:
        self._mount = mount
        self._bytes = self._entries = 0
        self._end = time.monotonic() + MAX_SECONDS

    def folder(self, source: Directory, target: Directory, place: Path) -> None:
        for name in source.names():
            self._count(0)
            self._entries += 1
            try:
                self._entry(source, target, name, place)
            except OSError as error:
                if error.errno not in _LEFT_OUT:
                    raise

    def _entry(self, source: Directory, target: Directory, name: str, place: Path) -> None:
        mode = source.status(name).st_mode
        if name == ".git" and _leads_out(source, place):
            return
        if stat.S_ISLNK(mode):
            target.link(source.target(name), name)
        elif stat.S_ISREG(mode):
            self._file(source, target, name)
        elif stat.S_ISDIR(mode):
            with source.child(name) as inner:
                if inner.mount != self._mount:
                    return
                if len(place.parts) >= MAX_DEPTH:
                    raise _too_large(f"its folders are nested deeper than {MAX_DEPTH}")
                with target.new(name) as made:
                    self.folder(inner, made, place / name)

    def _file(self, source: Directory, target: Directory, name: str) -> None:
        with source.reading(name) as file, target.writing(name) as copy:
            while chunk := file.read(_CHUNK):
                self._count(len(chunk))
                copy.write(chunk)
            copy.flush()
            status = os.fstat(file.fileno())
            os.fchmod(copy.fileno(), status.st_mode & 0o777)
            os.utime(copy.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise _too_large(f"it has more than {MAX_BYTES // 1024**2} MiB")
        if self._entries > MAX_ENTRIES:
            raise _too_large(f"it has more than {MAX_ENTRIES} entries")
        if time.monotonic() > self._end:
            raise _too_large(f"copying it takes more than {MAX_SECONDS:g} seconds")


def _leads_out(folder: Directory, place: Path) -> bool:
    """Tell whether ``.git`` leads out of the copy, in which ``folder`` is at ``place``; a file does so, or a link."""
    if stat.S_ISLNK(folder.status(".git").st_mode):
        target: Path | None = Path(os.path.normpath(place / folder.target(".git")))
    else:
        target = pointer(folder, ".git", place, prefix="gitdir: ")
    return target is not None and (target.is_absolute() or ".." in target.parts)


def _too_large(why: str) -> TooLarge:
    return TooLarge(f"the workspace can't be copied: {why}; share it instead", code="workspace_too_large")

"""Directories that are held open: their entries are reached through them, and no symbolic link is followed.

Use them for every folder into which an agent, or a helper of one, can put a link: a path checked a moment ago may lead
elsewhere by now, but a descriptor can't.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Self

_PATH = getattr(os, "O_PATH", 0)  # Linux: opening needs no permission to read the directory
_FLAGS = _PATH | os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_PLAIN_FILE = (IsADirectoryError, PermissionError)  # the errors of unlink(2) for a directory, on Linux and elsewhere


class Directory:
    """A directory that is open until `close`. Every method may raise OSError."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path, *, make: bool = False) -> Self:
        """Open an absolute path of which no component is a symbolic link.

        With ``make``, missing components are made, for this user alone.
        """
        if not path.is_absolute() or ".." in path.parts:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        found = cls(os.open(path.anchor, _FLAGS))
        for name in path.parts[1:]:
            with found as parent:
                found = parent._opened(name, path) if not make else parent._made(name, path)
        return found

    def _opened(self, name: str, path: Path) -> Self:
        try:
            return self.child(name)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def _made(self, name: str, path: Path) -> Self:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._descriptor)
        return self._opened(name, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode, which no other directory has while this one is open."""
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino

    @property
    def mount(self) -> str:
        """The kernel's number of the mount that it lies in. It differs from the parent's where a mount begins."""
        try:
            lines = Path(f"/proc/self/fdinfo/{self._descriptor}").read_text().splitlines()
            return next(line for line in lines if line.startswith("mnt_id:"))
        except (FileNotFoundError, StopIteration):  # another system than Linux
            return str(os.fstat(self._descriptor).st_dev)

    @property
    def owner(self) -> int:
        """The id of the user who owns it."""
        return os.fstat(self._descriptor).st_uid

    def close_to_others(self) -> None:
        """Set the mode to 0700."""
        if _PATH:
            os.chmod(f"/proc/self/fd/{self._descriptor}", 0o700)  # fchmod(2) refuses a descriptor of O_PATH
        else:
            os.fchmod(self._descriptor, 0o700)

    def names(self) -> list[str]:
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            return os.listdir(readable)
        finally:
            os.close(readable)

    def has(self, name: str) -> bool:
        """Tell whether there is an entry of this name, even if it is a link that leads nowhere."""
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def child(self, name: str) -> Self:
        """Return the directory of this name. Raises NotADirectoryError for a link or anything else."""
        try:
            return type(self)(os.open(name, _FLAGS, dir_fd=self._descriptor))
        except OSError as error:
            if error.errno == errno.ELOOP:  # the error of systems other than Linux
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
            raise

    def new(self, name: str) -> Self:
        """Make a directory for this user alone. Raises FileExistsError if there is any entry of this name."""
        os.mkdir(name, 0o700, dir_fd=self._descriptor)
        return self.child(name)

    def folder(self, name: str) -> Self:
        """Return the directory of this name, made if it is missing; a link or a file in its place is removed."""
        with suppress(FileNotFoundError):
            try:
                return self.child(name)
            except NotADirectoryError:
                os.unlink(name, dir_fd=self._descriptor)
        return self.new(name)

    def make_alike(self, name: str, *, folder: bool) -> None:
        """Make an empty directory or file of this name, with the owner and the mode of this directory, unless there is
        any entry of this name.
        """
        status = os.fstat(self._descriptor)
        with suppress(FileExistsError):
            if folder:
                os.mkdir(name, 0o700, dir_fd=self._descriptor)
                number = os.open(name, _FLAGS & ~_PATH, dir_fd=self._descriptor)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                number = os.open(name, flags, 0o600, dir_fd=self._descriptor)
            try:
                if os.geteuid() == 0:
                    os.fchown(number, status.st_uid, status.st_gid)
                os.fchmod(number, stat.S_IMODE(status.st_mode) & (0o7777 if folder else 0o666))
            finally:
                os.close(number)

    def file(self, name: str) -> None:
        """Make sure that there is a file of this name; a link or a directory in its place is removed."""
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                return
            self.remove(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o600, dir_fd=self._descriptor))

    def read(self, name: str, limit: int) -> bytes:
        """Return the first ``limit`` bytes of a file. Raises OSError for a link, a pipe or a device."""
        with self.reading(name) as file:
            return file.read(limit)

    def reading(self, name: str) -> BufferedReader:
        """Open a file to read it. Raises OSError for a link, a pipe or a device."""
        # Without O_NONBLOCK, opening a pipe that has no writer would hang.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = open(os.open(name, flags, dir_fd=self._descriptor), "rb")  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "it is no regular file", name)
        return file

    def writing(self, name: str, mode: int = 0o600) -> BufferedWriter:
        """Make a file, and open it to write it. Raises FileExistsError if there is any entry of this name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return open(os.open(name, flags, mode, dir_fd=self._descriptor), "wb")

    def status(self, name: str) -> os.stat_result:
        """Return the status of an entry, of a link its own."""
        return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)

    def target(self, name: str) -> str:
        """Return where a link leads to."""
        return os.readlink(name, dir_fd=self._descriptor)

    def link(self, target: str, name: str) -> None:
        """Make a symbolic link."""
        os.symlink(target, name, dir_fd=self._descriptor)

    def write(self, name: str, text: str) -> None:
        """Write a file that only this user may read, all at once or not at all."""
        draft = f"{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        number = os.open(draft, flags, 0o600, dir_fd=self._descriptor)
        try:
            with open(number, "w") as file:
                file.write(text)
            self.rename(draft, name)
        except BaseException:
            with suppress(FileNotFoundError):
                self.unlink(draft)
            raise

    def rename(self, name: str, to: str) -> None:
        os.rename(name, to, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._descriptor)

    def remove_empty(self, name: str) -> None:
        os.rmdir(name, dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        """Delete the entry of this name with all its contents; what can't be deleted stays. Raises nothing.

        A mount belongs to another place: it is neither entered nor changed.
        """
        # An agent may nest folders deeper than the limits of descriptors or of the call stack, so each is first moved
        # up here. An agent may also have removed its own permission to enter them.
        with suppress(OSError):
            self._remove(name, self.mount)

    def _remove(self, name: str, mount: str) -> None:
        waiting = [name]
        while waiting:
            each = waiting.pop()
            with suppress(OSError):
                try:
                    self.unlink(each)
                    continue
                except _NO_PLAIN_FILE:
                    pass
                with self.child(each) as found:
                    if found.mount != mount:
                        continue
                    found.close_to_others()
                    for entry in found.names():
                        with suppress(OSError):
                            waiting += found._deleted(entry, self, mount)
                self.remove_empty(each)

    def _deleted(self, name: str, top: Directory, mount: str) -> list[str]:
        """Delete a file, or move a directory on this ``mount`` to ``top``. Return the new names in ``top``."""
        try:
            self.unlink(name)
            return []
        except _NO_PLAIN_FILE:
            pass
        with self.child(name) as found:
            if found.mount != mount:
                return []
            found.close_to_others()  # a move changes its `..`
        lifted = f".deleted-{secrets.token_hex(8)}"
        os.rename(name, lifted, src_dir_fd=self._descriptor, dst_dir_fd=top._descriptor)
        return [lifted]

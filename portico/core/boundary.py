"""The limits of the folders that a session may work in, checked when a client names a ``cwd`` and when agents start."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from portico.core.access import others_may_enter
from portico.core.directory import Directory
from portico.core.errors import AgentUnavailable, InvalidRequest, NotAllowed
from portico.core.git_folders import GitFolder, find_git_folder
from portico.core.links import links_on
from portico.core.mounts import KERNEL, Mounts
from portico.core.short import short_places
from portico.core.workspaces import NOT_ALLOWED, OWN_WORKSPACES, all_workspaces, moved

log = logging.getLogger("portico.folders")

_OTHERS = "cwd is another session's own, or where these lie"
_DATA = "cwd is the server's own data folder, or lies in it, or holds it"
_SYSTEM = "cwd shows what is the kernel's, such as /proc, which leads to other processes and all that they see"
_FILES = (
    "cwd holds files of the server's own, such as its .env, or programs that it runs: start the server in another "
    "folder, or with another PATH"
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A folder that no client may name, and the reason that the client gets.

    With ``below``, no folder in it may be named either. With ``above``, no folder that contains it; without, a sandbox
    hides it inside that folder.
    """

    path: Path
    why: str
    below: bool
    above: bool


class Boundary:
    """The boundary of one engine. Clients may name folders in ``roots``; ``files`` are the server's own. Links in both,
    and in ``data_dir``, are resolved only once, because agents may change everything in a root.

    With ``private``, no session works in a folder where other users could reach the files that its agent makes.
    """

    def __init__(
        self, data_dir: Path, roots: Sequence[Path], files: Sequence[Path] = (), *, private: bool = False
    ) -> None:
        self.roots = tuple(Path(os.path.realpath(root)) for root in roots)
        self._data_dir = Path(os.path.realpath(data_dir))
        self._private = private
        others = (*all_workspaces(data_dir, roots), *short_places(data_dir / "agents"))
        self._kept = [_Kept(path, _OTHERS, below=True, above=False) for path in others]
        # These may lie elsewhere, behind a link; and a root in the data folder must not give access to them.
        inner = (Path(os.path.realpath(data_dir / name)) for name in ("agents", "devices"))
        self._kept += [_Kept(path, _DATA, below=True, above=True) for path in (self._data_dir, *inner)]
        folders = (folder for file in files for folder in _folders_of(file))
        self._kept += [_Kept(folder, _FILES, below=False, above=True) for folder in dict.fromkeys(folders)]

    def resolve(self, cwd: str, option: str = "cwd") -> Path:
        """Return the folder that a client names as this option, with symlinks and ``..`` resolved.

        Raises `NotAllowed` for a folder outside of the roots, for one that belongs to other sessions or the server, and
        for one that contains such a folder; `InvalidRequest` if there is no such folder.
        """
        if not os.path.isabs(cwd) or "\0" in cwd:
            raise InvalidRequest(f"{option} must be an absolute path", code=f"invalid_{option}")
        path = Path(os.path.realpath(cwd))
        if not any(path.is_relative_to(root) for root in self.roots):
            raise NotAllowed(f"{option} lies outside of the folders that the operator allows (workspace_roots)")
        if (why := self.trouble(path)) is not None:
            raise NotAllowed(f"{option}{why.removeprefix('cwd')}")
        try:
            is_folder, is_open = path.is_dir(), self._private and others_may_enter(path.parent)
        except OSError as error:  # its name is too long, or an agent moves it away meanwhile
            raise InvalidRequest(f"{option} can't be used: {error.strerror}", code=f"invalid_{option}") from None
        if not is_folder:
            raise InvalidRequest(f"{option} is not a folder", code=f"invalid_{option}")
        if is_open:
            # The mode of the folder itself does not help: an agent may change the mode of its own workspace.
            raise NotAllowed(
                f"others on this machine could enter {option}, once its agent lets them: name a folder that lies in "
                "one that is closed to them"
            )
        return path

    def check(self, cwd: Path, *, added: bool = False) -> None:
        """Check again a folder that a client has named, as ``cwd`` or (``added``) as one of ``add_dirs``.

        Raises `AgentUnavailable` (``workspace_moved``, or ``workspace_not_allowed`` if it is no longer allowed).
        """
        try:
            Directory.open(cwd).close()
        except OSError:
            raise moved(cwd if added else None) from None
        if (why := self.trouble(cwd)) is not None:
            why = f"{cwd} (`add_dirs`){why.removeprefix('cwd')}" if added else why
            raise AgentUnavailable(why, code=NOT_ALLOWED)

    def git_folder(self, place: Path) -> GitFolder | None:
        """Return the git folder of a folder in which a session works, if a session may work there too: a client could
        name it. None if there is none, or none that is allowed.
        """
        found = find_git_folder(place)
        if found is None:
            return None
        in_roots = any(found.common.is_relative_to(root) for root in self.roots)
        if in_roots and self.trouble(found.common) is None:
            with suppress(OSError):
                if not (self._private and others_may_enter(found.common.parent)):
                    return found
        log.warning("the git folder %s of %s is not shown in a sandbox: no session may work there", found.common, place)
        return None

    def trouble(self, path: Path) -> str | None:
        """Return the reason why no session may work in ``path``, which has no links; None if one may."""
        if OWN_WORKSPACES in path.parts:  # even if they are another server's
            return _OTHERS
        look = _Look(path)
        if look.shows_the_kernels():
            return _SYSTEM
        for kept in self._kept:
            if kept.below and look.lies_in(kept.path) and not self._is_of_a_root(path, kept):
                return kept.why
            if look.shows_elsewhere(kept.path) or (kept.above and kept.path.is_relative_to(path)):
                return kept.why
        return None

    def _is_of_a_root(self, path: Path, kept: _Kept) -> bool:
        """Tell whether ``path`` lies in the data folder, but in a root that the operator has put there."""
        inner = (root for root in self.roots if root.is_relative_to(kept.path) and root != kept.path)
        return kept.path == self._data_dir and any(path.is_relative_to(root) for root in inner)


def _folders_of(file: Path) -> Iterator[Path]:
    """Yield the folders of the file and of the links on the way to it: a change of one of these changes the file."""
    yield Path(os.path.realpath(file.parent))
    for link in links_on(file):
        yield link.parent
    yield Path(os.path.realpath(file)).parent


class _Look:
    """One look at a folder without links, which may have other paths too.

    Mounts give it other paths, and so do file systems that ignore the case of letters.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[Path, tuple[int, int] | None] = {}
        self._mounts = Mounts.current()
        self._spot = self._mounts.spot(path)
        self._shown = list(self._mounts.shown_in(path))

    def lies_in(self, folder: Path) -> bool:
        """Tell whether it is ``folder``, or lies somewhere in it."""
        if self._path.is_relative_to(folder) or self._mounts.spot(folder).holds(self._spot):
            return True
        identity = self._identity(folder)
        return identity is not None and identity in map(self._identity, (self._path, *self._path.parents))

    def shows_the_kernels(self) -> bool:
        """Tell whether it lies in a file system of the kernel, or has one mounted in it."""
        return any(mount.kind in KERNEL for mount in self._shown)

    def shows_elsewhere(self, folder: Path) -> bool:
        """Tell whether ``folder`` is visible in it under a path other than its own."""
        spot = self._mounts.spot(folder)
        for mount in self._shown:
            if mount.spot.holds(spot) and mount.point / spot.path.relative_to(mount.spot.path) != folder:
                return True
        identity = self._identity(self._path)
        if identity is None or folder.is_relative_to(self._path):
            return False
        return identity in map(self._identity, (folder, *folder.parents))

    def _identity(self, path: Path) -> tuple[int, int] | None:
        if path not in self._known:
            try:
                status = path.stat()
            except OSError:
                self._known[path] = None
            else:
                self._known[path] = status.st_dev, status.st_ino
        return self._known[path]

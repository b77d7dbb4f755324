"""Short folders, for sockets: they lie in the temporary folder, for agents whose own folder has too long a path.

All short folders of one server lie in one folder there, which only its user may enter. So a sandbox can hide them
together, and an agent that opens its own folder to others gives no access to it.
"""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from portico.core.directory import Directory

_STAYS = "stays"
"""A file that keeps the folder in existence while it holds no short folders."""

_PLACES = 10
"""The number of names to try: in the temporary folder somebody else can take one first."""


def short_places(agents: Path) -> tuple[Path, ...]:
    """Return the folders that may hold the short folders of agents whose own folders lie in ``agents``."""
    temporary = Path(os.path.realpath(tempfile.gettempdir()))
    return tuple(temporary / name for name in _names(agents))


def make_short(folder: Path) -> Path:
    """Make a short folder for the agent with this folder: always the same one, unless its name is taken.

    Raises OSError.
    """
    place, opened = _place(folder.parent)
    with opened as ours:
        name = _hash(folder, 10)
        own = _opened(ours, name)
        if own is None:
            name = f"{name}-{secrets.token_hex(2)}"
            own = ours.new(name)
        with own:
            own.close_to_others()
    return place / name


def prepare_short(agents: Path) -> None:
    """Make the folder that will hold the short folders, before the first agent starts; it stays until `forget_short`.

    A sandbox hides only the folder that existed when it started, so there must not be another. Raises OSError.
    """
    with _place(agents)[1] as ours:
        ours.file(_STAYS)


def forget_short(agents: Path) -> None:
    """Delete the folder of the short folders, once nothing else is left in it."""
    for place in short_places(agents):
        with suppress(OSError), Directory.open(place) as found:
            if found.owner == os.geteuid():
                found.unlink(_STAYS)
        _remove_empty(place)


def remove_short(path: Path) -> None:
    """Delete the folder that `make_short` has made for one agent."""
    with suppress(OSError), Directory.open(path.parent) as ours:
        ours.remove(path.name)
    _remove_empty(path.parent)


def clear_short(agents: Path, known: Iterable[Path] = ()) -> None:
    """Delete all short folders, here and in the temporary folders that held ``known`` ones, while no agent runs."""
    names = _names(agents)
    places = {*short_places(agents), *(path.parent for path in known if path.parent.name in names)}
    for place in places:
        with suppress(OSError), Directory.open(place.parent) as temporary:
            with temporary.child(place.name) as ours:
                if ours.owner != os.geteuid():
                    continue
            temporary.remove(place.name)


def _remove_empty(place: Path) -> None:
    with suppress(OSError), Directory.open(place.parent) as temporary:
        with temporary.child(place.name) as found:
            if found.owner != os.geteuid():
                return
        temporary.remove_empty(place.name)


def _place(agents: Path) -> tuple[Path, Directory]:
    for place in short_places(agents):
        with Directory.open(place.parent) as temporary:
            ours = _opened(temporary, place.name)
        if ours is not None:
            ours.close_to_others()
            return place, ours
    raise OSError(errno.EEXIST, f"all names that it could have are taken: {short_places(agents)[0]}, ...")


def _opened(parent: Directory, name: str) -> Directory | None:
    """Return the directory of this name, made if it is missing; None if something that is not ours has the name."""
    with suppress(FileExistsError):
        return parent.new(name)
    try:
        found = parent.child(name)
    except NotADirectoryError:
        return None
    if found.owner == os.geteuid():
        return found
    found.close()
    return None


def _names(agents: Path) -> list[str]:
    first = f"portico-{_hash(agents, 8)}"
    return [first, *(f"{first}-{number}" for number in range(1, _PLACES))]


def _hash(path: Path, length: int) -> str:
    return sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:length]

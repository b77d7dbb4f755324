"""The faults of the folders that sessions may work in, as far as they show before there is a session."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from portico.core.access import others_may_enter
from portico.core.boundary import Boundary
from portico.core.links import links_on
from portico.core.workspaces import REMEDY, all_workspaces, workspaces_trouble


@dataclass(frozen=True, slots=True)
class RootTrouble:
    """A fault of a root. If it is ``fatal``, the server must not start. ``remedy`` says what to do."""

    text: str
    remedy: str
    fatal: bool


def root_troubles(data_dir: Path, roots: Sequence[Path], *, private: bool) -> Iterator[RootTrouble]:
    """Yield the faults of the roots, and change nothing. If ``private``, a root that others may enter is fatal."""
    boundary = Boundary(data_dir, roots)
    seen: set[Path] = set()
    for path in (data_dir, data_dir / "agents", *roots):
        for link in filter(lambda link: link not in seen, links_on(path)):
            seen.add(link)
            root = next((each for each in boundary.roots if link.parent.is_relative_to(each)), None)
            if root is not None and boundary.trouble(link.parent) is None:
                text = f"{path} leads through the link {link}, which agents may change, as it lies in the root {root}"
                yield RootTrouble(text, f"name the folder itself, {os.path.realpath(path)}", fatal=True)
    made = all_workspaces(data_dir, roots)[0]
    if (trouble := workspaces_trouble(made)) is not None:
        yield RootTrouble(trouble, REMEDY, fatal=True)
    for root in boundary.roots:
        if root == made:
            continue  # the server closes this one to others itself
        try:
            open_to_others = others_may_enter(root)
        except OSError as error:
            if root != boundary.roots[0] or not isinstance(error, FileNotFoundError):
                text = f"the workspace root {root} can't be used: {error.strerror}"
                yield RootTrouble(text, "make it, or leave it out of PORTICO_WORKSPACE_ROOTS", fatal=False)
            continue
        if open_to_others:
            text = (
                f"others on this machine may enter the workspace root {root}: a setuid program that an agent makes "
                "there would run for them with the rights of the server's user"
            )
            given = "" if root.stat().st_uid == os.geteuid() else "give it to the server's user and "
            remedy = f"{given}`chmod 700 {root}`, or choose a folder in one that is closed"
            yield RootTrouble(text, remedy, fatal=private)

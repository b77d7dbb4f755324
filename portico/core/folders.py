"""The folders of agents, and those in which sessions work. Nothing here blocks the event loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from anyio import to_thread

from portico.core.agent import AgentSpec
from portico.core.boundary import Boundary
from portico.core.directory import Directory
from portico.core.errors import Unavailable
from portico.core.git_folders import GitFolder
from portico.core.known_workspaces import remember_workspaces
from portico.core.roots import root_troubles
from portico.core.threads import in_thread
from portico.core.tree_copy import copy_tree
from portico.core.workspaces import DATA_DIR, ROOTS, Workspaces, all_workspaces, identities, identity, moved

log = logging.getLogger("portico.folders")


class Folders:
    """The folders of one engine. ``data_dir`` has a folder for each agent; clients may name folders in ``roots`` that
    hold none of ``files``.

    With ``private``, no session works in a folder that other users of the machine may enter. `open` must be called
    before any agent starts.
    """

    def __init__(
        self, data_dir: Path, roots: Sequence[Path], files: Sequence[Path] = (), *, private: bool = False
    ) -> None:
        self._data_dir = data_dir
        self._roots = roots
        self._private = private
        self._agents = Path(os.path.realpath(data_dir / "agents"))  # resolved, as a sandbox lacks the links
        self._boundary = Boundary(data_dir, roots, files, private=private)
        self._made: Workspaces | None = None

    async def open(self) -> None:
        """Make the folders that must exist before the first agent starts, and check the roots.

        Raises `Unavailable` (``workspaces_unusable``, ``workspace_roots_unusable``, ``data_dir_unusable``).
        """
        await to_thread.run_sync(self._open)

    def _open(self) -> None:
        for trouble in root_troubles(self._data_dir, self._roots, private=self._private):
            if trouble.fatal:
                raise Unavailable(f"{trouble.text}: {trouble.remedy}", code=ROOTS)
            log.warning("%s: %s", trouble.text, trouble.remedy)
        try:
            with Directory.open(self._agents, make=True) as agents:
                agents.close_to_others()
        except OSError as error:
            detail = f"the folder of the agents, {self._agents}, cannot be used: {error.strerror}"
            raise Unavailable(detail, code=DATA_DIR) from error
        made = all_workspaces(self._data_dir, self._roots)[0]
        remember_workspaces(self._data_dir, made)
        self._made = Workspaces.open(made)

    def close(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            made.close()

    def fault(self) -> str | None:
        """Return the reason why workspaces can no longer be made, or None. Takes a few calls of the file system."""
        return self._made.fault() if self._made is not None else None

    def agent(self, agent_id: str) -> Path:
        """Return the agent's own folder; its driver makes it."""
        return self._agents / agent_id

    async def workspace(self, agent_id: str) -> Path:
        """Make a workspace that only our user may enter. Raises `Unavailable` (``workspaces_unusable``)."""
        return await to_thread.run_sync(self._opened.make, agent_id)

    async def given(self, cwd: str, option: str = "cwd") -> Path:
        """Return the folder that a client names as this option. Raises as `Boundary.resolve`."""
        return await to_thread.run_sync(self._boundary.resolve, cwd, option)

    async def check(self, spec: AgentSpec) -> None:
        """Check again the folders in which an agent that is about to start works. Raises `AgentUnavailable`."""
        await to_thread.run_sync(self._check, spec.agent_id, spec.cwd)
        for name in spec.options.add_dirs:
            await to_thread.run_sync(partial(self._boundary.check, Path(name), added=True))

    async def identities(self, spec: AgentSpec, further: Sequence[Path] = ()) -> list[tuple[int, int] | None]:
        """Do as `workspaces.identities`, for the folders of an agent and ``further`` paths (None: there is nothing)."""

        def found() -> list[tuple[int, int] | None]:
            added = [Path(name) for name in spec.options.add_dirs]
            return [*identities(spec.cwd, added), *map(identity, further)]

        return await to_thread.run_sync(found)

    async def git_dirs(self, places: Sequence[str]) -> tuple[str, ...]:
        """Return the git folders that lie outside of these folders, and that an agent there may use."""
        return tuple(str(each.own) for each in await self._git_folders(map(Path, places)))

    async def with_git(self, spec: AgentSpec) -> AgentSpec:
        """Return ``spec`` with the git folders that it may use now; the session had all of them from its beginning."""
        if not spec.options.git_dirs:
            return spec
        found = await self._git_folders((spec.cwd, *map(Path, spec.options.add_dirs)))
        return replace(spec, git_folders=tuple(each for each in found if str(each.own) in spec.options.git_dirs))

    async def _git_folders(self, places: Iterable[Path]) -> list[GitFolder]:
        found = await to_thread.run_sync(lambda: [self._boundary.git_folder(place) for place in places])
        return [each for each in found if each is not None]

    def _check(self, agent_id: str, cwd: Path) -> None:
        if cwd.parent == self._opened.path:  # no client can name this: we made it, perhaps for one that shares it
            self._opened.check(cwd.name)
        elif cwd.name == agent_id:  # no client can name this: we made it when another root was the first
            try:
                Directory.open(cwd).close()
            except OSError:
                raise moved() from None
        else:
            self._boundary.check(cwd)

    async def copy(self, cwd: Path, workspace: Path) -> None:
        """Copy a session's folder into a workspace that we made. Raises `TooLarge` and `Unavailable`."""
        try:
            await to_thread.run_sync(copy_tree, cwd, workspace)
        except OSError as error:
            raise Unavailable(f"the workspace can't be copied: {error.strerror}", code="workspaces_unusable") from error

    async def drop(self, agent_id: str, workspace: Path | None) -> None:
        """Delete an agent's folder, and the workspace if we made it; files that cannot be deleted stay."""
        await in_thread(partial(self._drop, agent_id, workspace))

    def _drop(self, agent_id: str, workspace: Path | None) -> None:
        _remove(self._agents / agent_id)
        if workspace is None:
            return
        if workspace == self._opened.path / agent_id:
            self._opened.remove(agent_id)
        elif workspace.name == agent_id:
            _remove(workspace)

    @property
    def _opened(self) -> Workspaces:
        if self._made is None:
            raise Unavailable("the engine is not running", code="not_running")
        return self._made


def _remove(folder: Path) -> None:
    try:
        with Directory.open(folder.parent) as parent:
            parent.remove(folder.name)
    except OSError as error:
        log.debug("%s could not be deleted: %s", folder, error)

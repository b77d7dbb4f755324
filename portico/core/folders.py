"""The folders of agents, and those in which sessions work. Everything here leaves the event loop free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from anyio import to_thread

from portico.core.errors import InvalidRequest, NotAllowed
from portico.core.threads import in_thread

OWN_WORKSPACES = ".portico-workspaces"


def own_workspaces(data_dir: Path, roots: Sequence[Path]) -> Path:
    """Where the workspaces lie that we make: in the first of ``roots``, apart from what clients may name there."""
    return roots[0] if roots[0] == data_dir / "workspaces" else roots[0] / OWN_WORKSPACES


class Folders:
    """In ``data_dir`` there is a folder for each agent; clients may name those in ``roots`` without ``files``."""

    def __init__(self, data_dir: Path, roots: Sequence[Path], files: Sequence[Path] = ()) -> None:
        self._data_dir = data_dir
        self._files = files
        self._agents = Path(os.path.realpath(data_dir / "agents"))  # what a sandbox has no links for
        self._roots = roots
        self._made = own_workspaces(data_dir, roots)

    def agent(self, agent_id: str) -> Path:
        """The agent's own folder; its driver makes it."""
        return self._agents / agent_id

    async def workspace(self, agent_id: str) -> Path:
        """Make a workspace that only we may enter."""
        return await to_thread.run_sync(_make_workspace, self._made, agent_id)

    async def given(self, cwd: str) -> Path:
        """The folder that a client names, symlinks and ``..`` resolved.

        Raises `NotAllowed` outside of the roots, for what other sessions or this server keep there, and for what that
        lies in; `InvalidRequest` where there is no such folder.
        """
        return await to_thread.run_sync(_resolve, cwd, self._roots, self._data_dir, self._made, self._files)

    async def drop(self, agent_id: str, workspace: Path | None) -> None:
        """Delete an agent's folder, and a workspace that we made; what cannot be deleted stays."""
        for folder in (self.agent(agent_id), workspace):
            if folder is not None:
                await in_thread(partial(_remove, folder))


def _make_workspace(base: Path, name: str) -> Path:
    for folder in (base, base / name):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    return Path(os.path.realpath(base / name))


def _resolve(cwd: str, roots: Sequence[Path], data_dir: Path, made: Path, files: Sequence[Path]) -> Path:
    if not os.path.isabs(cwd) or "\0" in cwd:
        raise InvalidRequest("cwd must be an absolute path", code="invalid_cwd")
    path = Path(os.path.realpath(cwd))
    inside = [Path(os.path.realpath(root)) for root in roots]
    if not any(path.is_relative_to(root) for root in inside):
        raise NotAllowed("cwd lies outside of the folders that the operator allows (workspace_roots)")
    data = Path(os.path.realpath(data_dir))
    if path.is_relative_to(os.path.realpath(made)):
        raise NotAllowed("cwd is another session's own, or where these lie")
    ours = path.is_relative_to(data) and not any(
        path.is_relative_to(r) and r.is_relative_to(data) and r != data for r in inside
    )
    if ours or data.is_relative_to(path):
        raise NotAllowed("cwd is the server's own data folder, or lies in it, or holds it")
    if any(Path(os.path.realpath(file.parent)).is_relative_to(path) for file in files):
        raise NotAllowed("cwd holds files of the server's own, such as its .env: start the server in another folder")
    if not path.is_dir():
        raise InvalidRequest("cwd is not a folder", code="invalid_cwd")
    return path


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

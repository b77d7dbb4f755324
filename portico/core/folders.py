"""The folders of agents, and those in which sessions work. Everything here leaves the event loop free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from anyio import to_thread

from portico.core.errors import InvalidRequest, NotAllowed


class Folders:
    """``agents`` holds a folder for each agent; workspaces that we make lie in the first of ``roots``."""

    def __init__(self, agents: Path, roots: Sequence[Path]) -> None:
        self._agents = agents
        self._roots = roots

    def agent(self, agent_id: str) -> Path:
        """The agent's own folder; its driver makes it."""
        return self._agents / agent_id

    async def workspace(self, agent_id: str) -> Path:
        """Make a workspace that only we may enter."""
        folder = self._roots[0] / agent_id
        await to_thread.run_sync(_make_private, folder)
        return folder

    async def given(self, cwd: str) -> Path:
        """The folder that a client names, symlinks and ``..`` resolved.

        Raises `NotAllowed` outside of the roots, `InvalidRequest` where there is no such folder.
        """
        return await to_thread.run_sync(_resolve, cwd, self._roots)

    async def drop(self, agent_id: str, workspace: Path | None) -> None:
        """Delete an agent's folder, and a workspace that we made; what cannot be deleted stays."""
        for folder in (self.agent(agent_id), workspace):
            if folder is not None:
                await to_thread.run_sync(_remove, folder)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _resolve(cwd: str, roots: Sequence[Path]) -> Path:
    if not os.path.isabs(cwd) or "\0" in cwd:
        raise InvalidRequest("cwd must be an absolute path", code="invalid_cwd")
    path = Path(os.path.realpath(cwd))
    if not any(path.is_relative_to(os.path.realpath(root)) for root in roots):
        raise NotAllowed("cwd lies outside of the folders that the operator allows (workspace_roots)")
    if not path.is_dir():
        raise InvalidRequest("cwd is not a folder", code="invalid_cwd")
    return path


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

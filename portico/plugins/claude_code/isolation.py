"""Isolation of a driver's agents, from each other and from everything else: chosen once, when the driver opens."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import anyio.to_thread

from portico.core.boundary import Boundary
from portico.core.errors import AgentUnavailable
from portico.core.short import short_places
from portico.core.workspaces import all_workspaces
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.containment import Containment, detect, sandboxed
from portico.plugins.claude_code.devices import make_devices
from portico.plugins.claude_code.environment import prepare_agents
from portico.plugins.claude_code.sandbox import Sandbox, find_sandbox, try_sandbox

LOOKS = 50
"""The number of folders of a root that are searched for a usable workspace if the root itself is not one."""

logger = logging.getLogger(__name__)

EXPOSED = (
    "agents are not in a sandbox (%s): they and their tools can read whatever the user of this server can, such as "
    "other sessions' workspaces and folders, the history, tokens in files, and this user's home"
)


async def isolate(config: DriverConfig) -> Containment:
    """Return the sandbox if it is wanted and works, or else the best way to kill agents as a whole.

    The log says which, and what is exposed without a sandbox. Raises `AgentUnavailable`: ``no_sandbox`` if it is
    required and does not work; ``workspace_root_unusable`` if it works, but not in all roots;
    ``agent_folder_unusable``.
    """
    try:
        await anyio.to_thread.run_sync(prepare_agents, config.agents)
    except OSError as error:
        raise AgentUnavailable(
            f"The agents' folders cannot be made: {error.strerror}.", code="agent_folder_unusable"
        ) from error
    why = "sandbox=none"
    containment: Containment | None = None
    if config.sandbox != "none":
        try:
            devices = await anyio.to_thread.run_sync(make_devices, config.agents.parent)
            sandbox = await sandbox_for(config, devices)
        except LookupError as error:
            if config.sandbox != "auto":
                detail = f"sandbox={config.sandbox}: {error}"
                raise AgentUnavailable(detail, code="no_sandbox") from error
            why = str(error)
        else:
            containment = sandboxed(sandbox)
    if containment is None:
        logger.warning(EXPOSED, why)
        containment = await detect(config.search_path)
    logger.info("agents are contained by %s", containment.describe())
    return containment


async def sandbox_for(config: DriverConfig, devices: Path | None = None) -> Sandbox:
    """Find the sandbox and try it in all roots.

    Raises LookupError as `find_sandbox`, and `AgentUnavailable` (``workspace_root_unusable``) as `isolate`.
    """
    made = all_workspaces(config.agents.parent, config.roots) if config.roots else ()
    sandbox = await find_sandbox(
        config.search_path,
        config.environment,
        visible=config.visible,
        hidden=(*config.hidden, *made, *short_places(config.agents)),
        roots=config.roots,
        devices=devices,
    )
    agents = config.agents if os.access(config.agents, os.W_OK) else None  # `portico doctor` may run before any start
    for root, cwd in await anyio.to_thread.run_sync(lambda: list(_places_to_work(config))):
        if (why := await try_sandbox(sandbox, config.search_path, cwd=cwd, agents=agents)) is not None:
            detail = (
                f"workspace_roots: in {root} no agent would work, as the sandbox can't show it ({why}): "
                "choose another folder, or set PORTICO_SANDBOX=none"
            )
            raise AgentUnavailable(detail, code="workspace_root_unusable")
    return sandbox


def _places_to_work(config: DriverConfig) -> Iterator[tuple[Path, Path]]:
    """Yield each existing root with a folder in which a session may work: the root if that is allowed, or one inside
    it.
    """
    if not config.roots:
        return
    data_dir = config.agents.parent
    made = all_workspaces(data_dir, config.roots)[0]
    if made.is_dir():
        yield config.roots[0], made
    boundary = Boundary(data_dir, config.roots)
    for root in filter(Path.is_dir, boundary.roots):
        with suppress(OSError), os.scandir(root) as entries:
            folders = (Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
            usable = (path for path in chain([root], islice(folders, LOOKS)) if boundary.trouble(path) is None)
            yield from ((root, path) for path in islice(usable, 1))

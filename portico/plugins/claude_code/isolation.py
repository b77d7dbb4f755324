"""How a driver's agents are kept together, and from everything else: found out once, when it opens."""

from __future__ import annotations

import logging

from portico.core.errors import AgentUnavailable
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.containment import Containment, detect, sandboxed
from portico.plugins.claude_code.sandbox import Sandbox, find_sandbox

logger = logging.getLogger(__name__)

EXPOSED = (
    "agents are not in a sandbox (%s): they and their tools can read whatever the user of this server can, such as "
    "other sessions' workspaces and folders, the history, tokens in files, and this user's home"
)


async def isolate(config: DriverConfig) -> Containment:
    """The sandbox where it is wanted and works, else what there is to kill agents as a whole.

    Says in the log which, and what is open without a sandbox. Raises `AgentUnavailable` (``no_sandbox``) where it is
    wanted come what may.
    """
    why = "sandbox=none"
    containment: Containment | None = None
    if config.sandbox != "none":
        try:
            sandbox = await sandbox_for(config)
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


async def sandbox_for(config: DriverConfig) -> Sandbox:
    """Raises LookupError, see `find_sandbox`."""
    return await find_sandbox(
        config.search_path,
        config.environment,
        visible=config.visible,
        hidden=config.hidden,
        roots=config.roots,
    )

"""Check that the sandbox works. If not, report what agents can read."""

from __future__ import annotations

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.core.errors import AgentUnavailable

_MEND = "`apt install bubblewrap` or the like; in a container, allow user namespaces or run it with CAP_SYS_ADMIN"


async def check(place: Place) -> Finding:
    if not place.needs_credentials:
        return ok("no driver starts processes of its own")
    from portico.plugins.claude_code.config import DriverConfig
    from portico.plugins.claude_code.isolation import EXPOSED, sandbox_for

    config = DriverConfig.from_context(place.context)
    if config.sandbox == "none":
        return warning(EXPOSED % "sandbox=none", "set PORTICO_SANDBOX=auto or required")
    try:
        await sandbox_for(config)
    except LookupError as error:
        if config.sandbox == "auto":
            return warning(EXPOSED % error, _MEND)
        return failure(f"sandbox={config.sandbox}: {error}", _MEND)
    except AgentUnavailable as error:
        return failure(error.detail)  # the detail says what to do
    return ok("bubblewrap works: agents see their own folders and the system alone")

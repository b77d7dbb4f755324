"""Checks of the program that agents run, its credentials, and what keeps it in."""

from __future__ import annotations

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.core.errors import AgentUnavailable


async def check_claude_program(place: Place) -> Finding:
    """Check that there is a `claude` program, and that it runs."""
    if not place.needs_credentials:
        return ok("no driver needs the claude program")
    from portico.plugins.claude_code.cli import CliVersions, find_cli
    from portico.plugins.claude_code.config import DriverConfig

    config = DriverConfig.from_context(place.context)
    try:
        path = await anyio.to_thread.run_sync(find_cli, config.cli_path, config.search_path)
        version = await CliVersions().check(path, {"PATH": config.search_path})
    except AgentUnavailable as error:
        return failure(error.detail)  # the detail says what to do
    return ok(f"{path} is version {'.'.join(map(str, version))}")


async def check_credentials(place: Place) -> Finding:
    """Check that there is a key for the model API."""
    settings = place.settings
    given = [name for name in ("anthropic_api_key", "claude_code_oauth_token") if getattr(settings, name) is not None]
    if given:
        return ok(f"{', '.join(name.upper() for name in given)} is set")
    if not place.needs_credentials:
        return ok("no driver needs credentials for the model API")
    fix = "set ANTHROPIC_API_KEY, or CLAUDE_CODE_OAUTH_TOKEN (from `claude setup-token`)"
    return warning("there are no credentials for the model API", fix)


async def check_containment(place: Place) -> Finding:
    """Check that all that an agent starts can be killed with it."""
    if not place.needs_credentials:
        return ok("no driver starts processes of its own")
    from portico.plugins.claude_code.config import DriverConfig
    from portico.plugins.claude_code.containment import detect

    found = await detect(DriverConfig.from_context(place.context).search_path)
    if found.name == "best-effort":
        fix = "let this user make PID namespaces (as root, or with user namespaces), or give it a control group"
        return warning(found.describe(), fix)
    return ok(found.describe())


_MEND = "`apt install bubblewrap` or the like; in a container, allow user namespaces or run it with CAP_SYS_ADMIN"


async def check_sandbox(place: Place) -> Finding:
    """Check that the sandbox works; if not, say what agents can read."""
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

"""Check that there is a `claude` program, and that it runs."""

from __future__ import annotations

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok
from portico.core.errors import AgentUnavailable


async def check(place: Place) -> Finding:
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

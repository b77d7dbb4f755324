"""Check that everything that an agent starts can be killed with it."""

from __future__ import annotations

from portico.cli.doctor.finding import Finding, Place, ok, warning


async def check(place: Place) -> Finding:
    if not place.needs_credentials:
        return ok("no driver starts processes of its own")
    from portico.plugins.claude_code.config import DriverConfig
    from portico.plugins.claude_code.containment import detect

    found = await detect(DriverConfig.from_context(place.context).search_path)
    if found.name == "best-effort":
        mend = "let this user make PID namespaces (as root, or with user namespaces), or give it a control group"
        return warning(found.describe(), mend)
    return ok(found.describe())

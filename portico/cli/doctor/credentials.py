"""Check that there is a key for the model API."""

from __future__ import annotations

from portico.cli.doctor.finding import Finding, Place, ok, warning


async def check(place: Place) -> Finding:
    settings = place.settings
    given = [name for name in ("anthropic_api_key", "claude_code_oauth_token") if getattr(settings, name) is not None]
    if given:
        return ok(f"{', '.join(name.upper() for name in given)} is set")
    if not place.needs_credentials:
        return ok("no driver needs credentials for the model API")
    mend = "set ANTHROPIC_API_KEY, or CLAUDE_CODE_OAUTH_TOKEN (from `claude setup-token`)"
    return warning("there are no credentials for the model API", mend)

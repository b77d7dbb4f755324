"""Check that the server can make its workspaces, and that the folders for clients are usable and closed to others."""

from __future__ import annotations

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.core.roots import root_troubles


async def check(place: Place) -> Finding:
    settings = place.settings
    private = settings.sandbox in ("bubblewrap", "required")
    found = await anyio.to_thread.run_sync(
        lambda: list(root_troubles(settings.data_dir, settings.workspace_roots, private=private))
    )
    if not found:
        return ok(f"sessions work in {', '.join(map(str, settings.workspace_roots))}, which others may not enter")
    text = "; ".join(trouble.text for trouble in found)
    remedy = "; ".join(dict.fromkeys(trouble.remedy for trouble in found))
    return failure(text, remedy) if any(trouble.fatal for trouble in found) else warning(text, remedy)

"""The check of plugins."""

from __future__ import annotations

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.plugins.registry import PluginError


async def check_plugins(place: Place) -> Finding:
    """Check that what the settings name exists, and that no plugin has failed."""
    settings, registry = place.settings, place.registry
    try:
        registry.store(settings.store)
        for name in settings.networking_mode:
            registry.transport(name)
        for name in settings.driver:
            registry.driver(name)
        for name in settings.auth:
            registry.authenticator(name)
    except PluginError as error:
        return failure(str(error), "`portico plugins` lists what there is")
    broken = [f"{each.name} ({each.failure})" for each in place.plugins if each.failure is not None]
    if broken:
        return warning(f"left out: {'; '.join(broken)}", "fix them, or name them in PORTICO_DISABLED_PLUGINS")
    return ok(f"{sum(not each.disabled for each in place.plugins)} plugins work")

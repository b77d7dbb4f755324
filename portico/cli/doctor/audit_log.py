"""Check that the audit log can be written."""

from __future__ import annotations

import os

from portico.cli.doctor.finding import Finding, Place, failure, ok


async def check(place: Place) -> Finding:
    path = place.settings.audit_log
    if path is None:
        return ok("no audit log is kept (audit_log=off)")
    if path.parent == place.settings.data_dir:
        return ok(f"it is kept in {path}")  # the data folder has a check of its own
    target = path if path.exists() else path.parent
    if path.is_dir() or not os.access(target, os.W_OK):
        return failure(f"the audit log can't be written to {path}", f"make {path.parent}, writable for this user")
    return ok(f"it is kept in {path}")

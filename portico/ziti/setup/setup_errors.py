"""Errors that end ``portico ziti``, each with a text that says what to do."""

from __future__ import annotations

from portico.core.errors import PorticoError


class EnrollFailed(PorticoError):
    code = "enrollment_failed"


class SetupFailed(PorticoError):
    code = "ziti_setup_failed"

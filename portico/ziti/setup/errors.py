"""What ends ``portico ziti``, each with a text that says what to do."""

from __future__ import annotations

from portico.cli.client.errors import ClientError


class EnrollFailed(ClientError):
    pass


class SetupFailed(ClientError):
    pass

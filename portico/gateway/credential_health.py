"""The health of the server's credential: the model API takes it, or has refused it."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping

PART = "model API"

REFUSED = "the model API refuses the server's credential (401): give it another in the settings, and restart it"

log = logging.getLogger("portico.gateway")


class CredentialHealth:
    """The health of the credential, by the API's last word. A refusal is in ``failed`` until the API accepts it."""

    def __init__(self, failed: MutableMapping[str, str] | None = None) -> None:
        self.failed: MutableMapping[str, str] = {} if failed is None else failed

    def answered(self, status: int) -> None:
        """Note the status of an answer of the API."""
        if status == 401 and PART not in self.failed:
            log.error("%s", REFUSED)
            self.failed[PART] = REFUSED
        elif status == 200:
            self.failed.pop(PART, None)

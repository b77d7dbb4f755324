"""Check the mode ziti: the library, the identity, and the callers that the server would trust."""

from __future__ import annotations

from importlib.util import find_spec

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.ziti.identity import IdentityError, check_identity


async def check(place: Place) -> Finding:
    settings = place.settings
    if "ziti" not in settings.networking_mode or settings.ziti_identity_file is None:
        return ok("the mode ziti is not selected")
    if find_spec("openziti") is None:
        return failure("Ziti's library is not installed", "pip install 'portico-server[ziti]'")
    try:
        await anyio.to_thread.run_sync(check_identity, settings.ziti_identity_file)
    except IdentityError as error:
        return failure(str(error))  # the message says what to do
    if settings.ziti_trust_caller:
        text = "ziti_trust_caller: anybody who may dial a service without a principal can claim to be anyone"
        return warning(text, "name principals in PORTICO_ZITI_SERVICE_NAME (service=principal), and leave it out")
    return ok(f"{settings.ziti_identity_file} can be used for {', '.join(s.name for s in settings.ziti_service_name)}")

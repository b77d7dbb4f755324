"""The Edge Management API of a controller, v1: https://netfoundry.io/docs/openziti/reference/developer/api/."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx

from portico.ziti.setup.setup_errors import SetupFailed

PATH = "/edge/management/v1"
PAGE = 500
"""The most entities in one answer."""
SECONDS = 15.0
TOKEN_LIFE = timedelta(hours=24)
"""The life of an enrolment token that replaces an expired one."""

Entity = dict[str, Any]
Kind = Literal[
    "identities", "services", "service-policies", "edge-router-policies", "service-edge-router-policies", "edge-routers"
]


def trust(ca: Path | None, *, insecure: bool) -> ssl.SSLContext:
    """Trust the authorities in ``ca``, by default the system's; with ``insecure``, anybody. Raises `SetupFailed`."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # SSLError is one
        why = "there is no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise SetupFailed(f"--ca: {ca} can't be used: {why}") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Management:
    """A client of the API, and a context manager. All methods raise `SetupFailed`."""

    def __init__(self, controller: str, verify: ssl.SSLContext) -> None:
        url = urlsplit(controller)
        try:
            usable = url.scheme == "https" and url.hostname and url.port != 0 and not (url.username or url.query)
        except ValueError:  # the port is not a number
            usable = False
        if not usable:
            raise SetupFailed(f"{controller!r} is not a controller's address; write https://HOST:PORT")
        self._where = f"https://{url.netloc}"
        path = url.path.rstrip("/") or PATH
        self._http = httpx.Client(base_url=self._where + path, verify=verify, timeout=SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def log_in(self, username: str, password: str) -> None:
        answer = self._send(
            "POST", "/authenticate", params={"method": "password"}, json={"username": username, "password": password}
        )
        # The controller refuses a password that is too short as malformed.
        if answer.status_code in (400, 401):
            raise SetupFailed(f"the controller does not take this password of {username!r}")
        self._http.headers["zt-session"] = str(self._data(answer)["token"])

    def find(self, kind: Kind, name: str) -> Entity | None:
        """Return the entity of this name, or None. ``name`` must have no quotation mark and no backslash."""
        found = self._data(self._send("GET", f"/{kind}", params={"filter": f'name="{name}"'}))
        return found[0] if found else None

    def all(self, kind: Kind) -> list[Entity]:
        found: list[Entity] = []
        while True:
            page = self._data(self._send("GET", f"/{kind}", params={"limit": PAGE, "offset": len(found)}))
            found += page
            if len(page) < PAGE:
                return found

    def create(self, kind: Kind, fields: Mapping[str, Any]) -> str:
        """Create an entity, and return its id."""
        return str(self._data(self._send("POST", f"/{kind}", json=fields))["id"])

    def change(self, kind: Kind, entity_id: str, fields: Mapping[str, Any]) -> None:
        self._data(self._send("PATCH", f"/{kind}/{entity_id}", json=fields))

    def refresh_enrollment(self, enrollment_id: str) -> None:
        until = datetime.now(UTC) + TOKEN_LIFE
        body = {"expiresAt": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self._data(self._send("POST", f"/enrollments/{enrollment_id}/refresh", json=body))

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except httpx.RequestError as error:
            raise SetupFailed(self._explain(error)) from None

    def _data(self, answer: httpx.Response) -> Any:
        try:
            body = answer.json()
            if answer.is_success:
                return body["data"]
            error = body["error"]
            cause = error.get("cause") or {}
            reason = cause.get("reason") or cause.get("message") or error["message"]
        except (ValueError, LookupError, TypeError, AttributeError):
            what = f"no Ziti controller (status {answer.status_code}): is the address right?"
            raise SetupFailed(f"what answers at {self._where} is {what}") from None
        if answer.status_code == 401:
            reason = "the login has expired, or this user is no administrator"
        raise SetupFailed(f"the controller refuses {answer.request.method} {answer.request.url.path}: {reason}")

    def _explain(self, error: httpx.RequestError) -> str:
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = inner
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"{self._where} can't prove who it is: {cause.verify_message}. --ca FILE names the authority that has"
                " signed its certificate, --insecure takes whoever answers"
            )
        if isinstance(cause, ssl.SSLError):
            return f"{self._where} does not speak TLS properly ({cause.reason or cause})"
        if isinstance(error, httpx.TimeoutException):
            return f"{self._where} does not answer"
        number = cause.errno if isinstance(cause, OSError) else None
        reason = os.strerror(number) if number and number > 0 else str(cause)
        return f"can't connect to {self._where}: {reason}"

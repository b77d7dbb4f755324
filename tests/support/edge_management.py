"""A stand-in for a Ziti controller's Edge Management API: as much as is asked of it, as strict as the real one.

Shapes, status codes and error texts are those of ziti 1.6.20.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PASSWORD = "of the admin"
ROOT = "/edge/management/v1"
SESSION = "a-session"
# kind -> the fields that it must have, and those that it may have
FIELDS = {
    "identities": ({"name", "type", "isAdmin"}, {"enrollment", "roleAttributes"}),
    "services": ({"name", "encryptionRequired"}, {"roleAttributes"}),
    "service-policies": ({"name", "semantic", "type"}, {"identityRoles", "serviceRoles"}),
    "edge-router-policies": ({"name", "semantic"}, {"identityRoles", "edgeRouterRoles"}),
    "service-edge-router-policies": ({"name", "semantic"}, {"serviceRoles", "edgeRouterRoles"}),
    "edge-routers": (set[str](), set[str]()),
}


def enrolment_token(*, expires: datetime | None = None, **fields: Any) -> str:
    """A JWT of the right form, signed by nobody."""
    until = expires or datetime.now(UTC) + timedelta(hours=3)
    payload = {"iss": "https://127.0.0.1:1280", "em": "ott", "exp": int(until.timestamp()), "jti": "x", **fields}
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, payload)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in [*parts, b"no signature"])


@dataclass(slots=True)
class Controller:
    """``url`` and ``ca`` are for its clients. ``writes`` are what changed something, in order."""

    url: str
    ca: Path
    entities: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {kind: [] for kind in FIELDS})
    writes: list[str] = field(default_factory=list)

    def named(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = (entity for entity in self.entities[kind] if entity["name"] == name)
        return found

    def add(self, kind: str, **fields: Any) -> dict[str, Any]:
        """One that was there before."""
        entity = {"id": f"id{sum(map(len, self.entities.values()))}", **fields}
        self.entities[kind].append(entity)
        return entity

    def roles(self, kind: str, name: str, field: str) -> set[str]:
        """Those of a policy, with names for ids."""
        names = {f"@{entity['id']}": f"@{entity['name']}" for found in self.entities.values() for entity in found}
        return {names.get(role, role) for role in self.named(kind, name)[field]}

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(f"{ROOT}/authenticate", self._authenticate, methods=["POST"]),
                Route(f"{ROOT}/enrollments/{{id}}/refresh", self._refresh, methods=["POST"]),
                Route(f"{ROOT}/{{kind}}", self._list, methods=["GET"]),
                Route(f"{ROOT}/{{kind}}", self._create, methods=["POST"]),
                Route(f"{ROOT}/{{kind}}/{{id}}", self._change, methods=["PATCH"]),
            ]
        )

    async def _authenticate(self, request: Request) -> Response:
        login = await request.json()
        if request.query_params.get("method") != "password" or len(login["password"]) < 5:
            return _invalid("password", "password in body should be at least 5 chars long")
        if login != {"username": "admin", "password": PASSWORD}:
            return _refused(401, "INVALID_AUTH", "The authentication request failed")
        return _answer({"token": SESSION, "id": "x"})

    async def _list(self, request: Request) -> Response:
        if refused := _unknown(request):
            return refused
        found = self.entities[request.path_params["kind"]]
        if wanted := request.query_params.get("filter"):
            match = re.fullmatch(r'name="([^"]+)"', wanted)
            assert match, wanted
            found = [entity for entity in found if entity["name"] == match[1]]
        offset, limit = int(request.query_params.get("offset", 0)), int(request.query_params.get("limit", 10))
        return _answer(found[offset : offset + limit])

    async def _create(self, request: Request) -> Response:
        if refused := _unknown(request):
            return refused
        kind, fields = request.path_params["kind"], await request.json()
        needed, optional = FIELDS[kind]
        for name in sorted((needed - fields.keys()) | (fields.keys() - needed - optional)):
            return _invalid(name, f"{name} in body is required, or forbidden")
        if any(entity["name"] == fields["name"] for entity in self.entities[kind]):
            return _invalid("name", f"duplicate value '{fields['name']}' in unique index on {kind} store")
        if refused := self._bad_roles(fields):
            return refused
        enrollment = fields.pop("enrollment", {})
        entity = self.add(kind, **fields)
        if enrollment.get("ott"):
            entity["enrollment"] = {"ott": {"id": f"e{entity['id']}", **_ott()}}
        self.writes.append(f"POST {kind} {entity['name']}")
        return _answer({"id": entity["id"]}, 201)

    async def _change(self, request: Request) -> Response:
        if refused := _unknown(request):
            return refused
        kind, fields = request.path_params["kind"], await request.json()
        if refused := self._bad_roles(fields):
            return refused
        (entity,) = (entity for entity in self.entities[kind] if entity["id"] == request.path_params["id"])
        entity.update(fields)
        self.writes.append(f"PATCH {kind} {entity['name']}")
        return _answer({})

    async def _refresh(self, request: Request) -> Response:
        if refused := _unknown(request):
            return refused
        expires = datetime.fromisoformat((await request.json())["expiresAt"])
        for identity in self.entities["identities"]:
            ott = identity.get("enrollment", {}).get("ott", {})
            if ott.get("id") == request.path_params["id"]:
                ott.update(_ott(expires))
                self.writes.append(f"REFRESH {identity['name']}")
        return _answer({"id": request.path_params["id"]})

    def _bad_roles(self, fields: Mapping[str, Any]) -> Response | None:
        known = {f"@{entity['id']}" for found in self.entities.values() for entity in found}
        for name, roles in fields.items():
            if name.endswith("Roles"):
                for role in roles:
                    if not role.startswith("#") and role not in known:
                        return _invalid(name, f"no such entity: {role}")
        return None


def _ott(expires: datetime | None = None) -> dict[str, str]:
    until = expires or datetime.now(UTC) + timedelta(hours=3)
    return {"jwt": enrolment_token(expires=until), "expiresAt": until.isoformat().replace("+00:00", "Z")}


def _unknown(request: Request) -> Response | None:
    if request.headers.get("zt-session") == SESSION:
        return None
    return _refused(401, "UNAUTHORIZED", "The request could not be completed. The session is not authorized")


def _answer(data: Any, status: int = 200) -> Response:
    return JSONResponse({"data": data, "meta": {}}, status)


def _invalid(name: str, reason: str) -> Response:
    cause = {"field": name, "reason": reason, "value": ""}
    return _refused(400, "COULD_NOT_VALIDATE", "The supplied request contains an invalid document", cause=cause)


def _refused(status: int, code: str, message: str, **fields: Any) -> Response:
    return JSONResponse({"error": {"code": code, "message": message, **fields}, "meta": {}}, status)


@contextmanager
def controller(folder: Path) -> Iterator[Controller]:
    """On a free port of loopback, with a certificate that it has signed itself."""
    certificate, key = _self_signed(folder)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Controller(f"https://127.0.0.1:{listening.getsockname()[1]}", certificate)
        config = uvicorn.Config(
            made.app, ssl_certfile=certificate, ssl_keyfile=key, lifespan="off", log_config=None, ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield made
        finally:
            server.should_exit = True
            thread.join()


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "controller")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "controller.cert", folder / "controller.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return files

"""An issuer of JSON Web Tokens: real keys, and a server that gives the public ones, or does not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from tests.support.limits import HANG_SECONDS

NAME, AUDIENCE = "https://issuer.example/", "portico"


class Issuer:
    """``keys`` by their ids; ``served`` is what its server answers."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {}
        self.add("rsa", "RS256")
        self.add("ec", "ES256")
        self.add("ed", "EdDSA")
        self.status = 200
        self.body: bytes | None = None
        self.go_on = Event()
        self.go_on.set()
        self.asked = 0
        self.drips = False
        self.url = ""

    def add(self, kid: str, algorithm: str, bits: int = 2048) -> None:
        match algorithm[:2]:
            case "RS" | "PS":
                key: Any = rsa.generate_private_key(65537, bits)
            case "ES":
                key = ec.generate_private_key(ec.SECP256R1())
            case _:
                key = ed25519.Ed25519PrivateKey.generate()
        self.keys[kid] = algorithm, key

    def jwk(self, kid: str) -> dict[str, Any]:
        algorithm, key = self.keys[kid]
        public = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
        return {**public, "kid": kid, "use": "sig"}

    def jwks(self) -> bytes:
        return json.dumps({"keys": [self.jwk(kid) for kid in self.keys]}).encode()

    def pem(self, kid: str) -> bytes:
        data: bytes = self.keys[kid][1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return data

    def token(
        self, kid: str = "rsa", header: Mapping[str, Any] | None = None, *, algorithm: str | None = None, **claims: Any
    ) -> str:
        """A good one, but for what is said here; a claim that is None is left out."""
        now = int(time.time())
        all_claims = {"iss": NAME, "aud": AUDIENCE, "sub": "carol", "iat": now, "exp": now + 3600, **claims}
        given = {name: value for name, value in all_claims.items() if value is not None}
        own, key = self.keys[kid]
        headers = {name: value for name, value in {"kid": kid, **(header or {})}.items() if value is not None}
        return jwt.encode(given, key, algorithm or own, headers)


@contextmanager
def serving_keys(issuer: Issuer) -> Iterator[str]:
    """The URL of its JWKS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            issuer.go_on.wait(HANG_SECONDS)
            body = issuer.jwks() if issuer.body is None else issuer.body
            self.send_response(issuer.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for start in range(len(body) if issuer.drips else 0):
                self.wfile.write(body[start : start + 1])
                time.sleep(0.1)
            if not issuer.drips:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the client has gone
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        issuer.url = f"http://127.0.0.1:{server.server_port}/keys"
        try:
            yield issuer.url
        finally:
            issuer.go_on.set()
            server.shutdown()
            thread.join()

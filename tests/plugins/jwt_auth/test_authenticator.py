"""Tokens of the issuer, and texts that only look like one. Real keys, and a real server that serves them."""

from __future__ import annotations

import base64
import hmac
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import jwt
import pytest

from portico.core.errors import Unavailable
from portico.core.principal import Authenticator, Principal
from portico.plugins.context import Context
from portico.plugins.jwt_auth import keyset
from portico.plugins.jwt_auth.authenticator import JwtAuthenticator, create
from portico.plugins.jwt_auth.jwt_settings import JwtSettings
from portico.plugins.jwt_auth.keyset import FRESH_SECONDS, RETRY_SECONDS, KeySet, reader_of
from portico.testing.authenticator import AuthenticatorConformance
from tests.support.issuer import AUDIENCE, NAME, Issuer, serving_keys
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

ISSUER = Issuer()


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer.__new__(Issuer)
    issuer.__dict__.update(ISSUER.__dict__, keys=dict(ISSUER.keys))
    with serving_keys(issuer):
        yield issuer


def made(source: str, clock: Clock | None = None, **settings: Any) -> JwtAuthenticator:
    given = {"jwks": source, "issuer": NAME, "audience": (AUDIENCE,), **settings}
    keys = KeySet(reader_of(source, Path.cwd()), now=clock or time.monotonic)
    return JwtAuthenticator(JwtSettings(**given), keys)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def raw(header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, signature: bytes = b"x") -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    return ".".join([*map(b64, parts), b64(signature)])


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
async def test_a_token_of_the_issuers_is_its_subject(issuer: Issuer, kid: str) -> None:
    authenticator = made(issuer.url, admin_claim="roles", admin_value="ops")
    assert await authenticator.authenticate(issuer.token(kid)) == Principal("carol")
    now = int(time.time())
    for claims in (
        {"aud": ["other", AUDIENCE]},
        {"exp": now - 20},  # within the leeway
        {"nbf": now + 20, "iat": now + 20},
        {"roles": ["users"]},
        {"roles": "opsy"},
        {"roles": {"ops": True}},
        {"roles": True},
    ):
        assert await authenticator.authenticate(issuer.token(kid, **claims)) == Principal("carol"), claims
    for roles in (["users", "ops"], "users ops"):
        assert await authenticator.authenticate(issuer.token(kid, roles=roles)) == Principal("carol", admin=True)
    assert issuer.asked == 1


async def test_what_is_wrong_with_a_token(issuer: Issuer) -> None:
    authenticator = made(issuer.url)
    now = int(time.time())
    good = issuer.token()
    claims = jwt.decode(good, options={"verify_signature": False})
    head, body, signature = good.split(".")
    stranger = Issuer()
    hmac_head = b64(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "rsa"}).encode())
    forged = {
        f"HS256 with {what}": f"{hmac_head}.{body}.{b64(hmac.digest(key, f'{hmac_head}.{body}'.encode(), 'sha256'))}"
        for what, key in {"the public key": issuer.pem("rsa"), "the JWKS": issuer.jwks(), "nothing": b""}.items()
    }
    wrong = {
        "expired": issuer.token(exp=now - 60),
        "never expires": issuer.token(exp=None),
        "not yet": issuer.token(nbf=now + 60),
        "of the future": issuer.token(iat=now + 60),
        "another audience": issuer.token(aud="other"),
        "audiences that have it in them": issuer.token(aud=["portico2", "por"]),
        "no audience": issuer.token(aud=None),
        "another issuer": issuer.token(iss="https://issuer.example"),
        "no issuer": issuer.token(iss=None),
        "no subject": issuer.token(sub=None),
        "an empty subject": issuer.token(sub=""),
        "a long subject": issuer.token(sub="x" * 129),
        "a subject of two lines": issuer.token(sub="carol\nroot"),
        "endless": issuer.token(exp=float("inf")),
        "no number": issuer.token(exp=float("nan")),
        "a huge number": issuer.token(exp=10**400),
        "text for a time": issuer.token(exp="soon"),
        "none": f"{b64(json.dumps({'alg': 'none', 'kid': 'rsa'}).encode())}.{body}.",
        "None, signed": raw({"alg": "None", "kid": "rsa"}, claims),
        "no algorithm": raw({"kid": "rsa"}, claims),
        **forged,
        "an algorithm that is not allowed": issuer.token(algorithm="RS512"),
        "an algorithm that is not the key's": raw({"alg": "ES256", "kid": "rsa"}, claims),
        "a stranger's key": stranger.token(),
        "a stranger's key, brought along": stranger.token(header={"jwk": stranger.jwk("rsa")}),
        "a stranger's key, to be fetched": stranger.token(header={"jku": issuer.url, "x5u": issuer.url}),
        "another key's id": issuer.token("ec", {"kid": "ed"}),
        "no id": issuer.token(header={"kid": None}),
        "an unknown id": issuer.token(header={"kid": "unknown"}),
        "a path": issuer.token(header={"kid": "../../../../etc/passwd"}),
        "a URL": issuer.token(header={"kid": f"{issuer.url}#"}),
        "SQL": issuer.token(header={"kid": "' OR ''='"}),
        "a number for an id": raw({"alg": "RS256", "kid": 1}, claims),
        "a list for an id": raw({"alg": "RS256", "kid": ["rsa"]}, claims),
        "something critical": issuer.token(header={"crit": ["exp"], "exp": 1}),
        "a payload that is none": raw({"alg": "RS256", "kid": "rsa"}, b"[1]"),
        "a header that is none": raw(b"[1]", claims),
        "a deep header": raw(b"[" * 7000, claims),
        "its own body changed": f"{head}.{b64(json.dumps({**claims, 'sub': 'root'}).encode())}.{signature}",
        "no signature": f"{head}.{body}.",
        "huge": issuer.token(more="x" * 20_000),
        "a MiB": "a.b." + "c" * 1024 * 1024,
        "five parts": "a.b.c.d.e",
        "dots": "..",
    }
    for what, token in wrong.items():
        with anyio.fail_after(HANG_SECONDS):
            assert await authenticator.authenticate(token) is None, what
    assert await authenticator.authenticate(good) == Principal("carol")
    assert issuer.asked == 1, "unknown ids do not make it ask again at once"


async def test_a_new_key_is_fetched_and_unknown_ones_do_not_make_it_fetch_all_the_time(issuer: Issuer) -> None:
    authenticator = made(issuer.url, clock := Clock())
    assert await authenticator.authenticate(issuer.token())
    clock.time += RETRY_SECONDS + 1
    issuer.add("new", "ES256")
    assert await authenticator.authenticate(issuer.token("new")) == Principal("carol")
    for number in range(50):
        assert await authenticator.authenticate(issuer.token(header={"kid": str(number)})) is None
    assert issuer.asked == 2
    del issuer.keys["rsa"]
    token = ISSUER.token()
    assert await authenticator.authenticate(token)
    clock.time += FRESH_SECONDS + 1
    assert await authenticator.authenticate(token) is None, "a key that is there no more is none"


async def test_while_the_issuer_is_away_its_keys_hold(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyset, "FETCH_SECONDS", 0.5)
    authenticator = made(issuer.url, clock := Clock())
    issuer.go_on.clear()  # it takes the connection, and says nothing
    with anyio.fail_after(HANG_SECONDS), pytest.raises(Unavailable):
        await authenticator.authenticate(issuer.token())
    asked = issuer.asked
    with pytest.raises(Unavailable):
        await authenticator.authenticate(issuer.token())
    assert issuer.asked == asked, "it is not asked again at once"
    issuer.go_on.set()
    issuer.drips = True
    clock.time += RETRY_SECONDS + 1
    with anyio.fail_after(HANG_SECONDS), pytest.raises(Unavailable):
        await authenticator.authenticate(issuer.token())
    issuer.drips = False
    monkeypatch.setattr(keyset, "FETCH_SECONDS", HANG_SECONDS)
    clock.time += RETRY_SECONDS + 1
    assert await authenticator.authenticate(issuer.token())
    for status, body in ((500, None), (302, None), (200, b"{"), (200, b'{"keys": []}'), (200, b"[" * 100_000)):
        issuer.status, issuer.body = status, body
        clock.time += FRESH_SECONDS + 1
        assert await authenticator.authenticate(issuer.token()) == Principal("carol"), (status, body)
    issuer.status, issuer.body = 200, b" " * (keyset.MAX_BYTES + 1) + issuer.jwks()
    clock.time += FRESH_SECONDS + 1
    assert await authenticator.authenticate(issuer.token()), "what is too large is not read"
    issuer.go_on.clear()
    clock.time += FRESH_SECONDS + 1
    asked, answered = issuer.asked, 0

    async def ask() -> None:
        nonlocal answered
        assert await authenticator.authenticate(issuer.token())
        answered += 1
        if answered == 19:
            issuer.go_on.set()

    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
    assert issuer.asked == asked + 1, "one asks, the others go by the keys that there are"


async def test_keys_that_were_being_read_at_a_reload_are_read_once_more(issuer: Issuer) -> None:
    answers = [issuer.jwks()]
    asked, go_on = anyio.Event(), anyio.Event()

    async def read() -> bytes:
        answer = answers[-1]
        asked.set()
        await go_on.wait()
        return answer

    keys = KeySet(read)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keys.find, "rsa")
        await asked.wait()
        del issuer.keys["rsa"]
        answers.append(issuer.jwks())
        keys.expire()
        go_on.set()
    assert await keys.find("rsa") is None


async def test_keys_that_are_of_no_use_are_left_out(tmp_path: Path) -> None:
    issuer = Issuer()
    issuer.add("weak", "RS256", bits=1024)
    _, private = issuer.keys["ec"]
    secret = get_private(private)
    entries = [
        issuer.jwk("weak"),
        {**issuer.jwk("rsa"), "kid": "for encryption", "use": "enc"},
        {**issuer.jwk("rsa"), "kid": "operations", "key_ops": 5},
        {"kty": "oct", "kid": "shared", "k": b64(b"x" * 32), "alg": "HS256"},
        {**secret, "kid": "private"},
        {"kty": "RSA", "kid": "broken", "n": "x", "e": "AQAB"},
        {"kty": "EC", "kid": "odd", "crv": "P-0", "x": "x", "y": "y"},
        "text",
        None,
        {**issuer.jwk("rsa"), "kid": "strict", "alg": "RS512"},
    ]
    (tmp_path / "keys").write_text(json.dumps({"keys": entries}))
    found = keyset.parse((tmp_path / "keys").read_bytes())
    assert set(found) == {"strict"}
    authenticator = made(str(tmp_path / "keys"), algorithms=("RS256", "RS512"))
    assert await authenticator.authenticate(issuer.token(header={"kid": "strict"})) is None
    assert await authenticator.authenticate(issuer.token(header={"kid": "strict"}, algorithm="RS512"))
    assert await authenticator.authenticate(issuer.token(header={"kid": None}, algorithm="RS512")), "the only one"


async def test_keys_in_what_is_no_file_hold_up_neither_the_start_nor_a_caller(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", Path("/dev/zero")):
        settings = JwtSettings(jwks=str(source), issuer=NAME, audience=(AUDIENCE,))
        context = Context(cast(Any, None), tmp_path, plugin_settings={"jwt": settings})
        with anyio.fail_after(HANG_SECONDS), pytest.raises(Unavailable, match="not a regular file"):
            await anyio.to_thread.run_sync(create, context, abandon_on_cancel=True)
        with anyio.fail_after(HANG_SECONDS), pytest.raises(Unavailable) as caught:
            await made(str(source)).authenticate(ISSUER.token())
        assert caught.value.code == "jwks_unavailable"


def get_private(key: Any) -> dict[str, Any]:
    found: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
    assert "d" in found
    return found


class TestJwtAuthenticator(AuthenticatorConformance):
    def create(self) -> Authenticator:
        async def read() -> bytes:
            return ISSUER.jwks()

        settings = JwtSettings(jwks="x", issuer=NAME, audience=(AUDIENCE,), admin_claim="roles")
        return JwtAuthenticator(settings, KeySet(read))

    def known(self) -> Mapping[str, Principal]:
        return KNOWN


KNOWN = {
    ISSUER.token("rsa", exp=4_000_000_000): Principal("carol"),
    ISSUER.token("ec", sub="dave", exp=4_000_000_000): Principal("dave"),
    ISSUER.token("ed", sub="root", roles=["portico-admin"], exp=4_000_000_000): Principal("root", admin=True),
}

"""The settings ``jwt_*``."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""The algorithms, all asymmetric: a server that can check a token must not be able to make one."""


def _source(value: str) -> str:
    if "://" not in value:
        return value
    url = urlsplit(value)
    if url.username is not None or not url.hostname:
        raise ValueError("it must be a path, or an https:// URL without credentials")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.hostname)):
        raise ValueError("keys that come over the network need https://")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class JwtSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    jwks: Annotated[str, AfterValidator(_source)] | None = Field(
        default=None, description="The issuer's public keys (a JWKS): a file, or an https:// URL."
    )
    issuer: str | None = Field(default=None, min_length=1, description="What a token's `iss` must be.")
    audience: tuple[str, ...] = Field(default=(), description="One of these must be in a token's `aud`.")
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "ES256", "EdDSA"), min_length=1, description="Algorithms that a token may be signed with."
    )
    leeway: float = Field(
        default=30, ge=0, le=300, description="Seconds that the issuer's clock may differ from the server's."
    )
    name_claim: str = Field(default="sub", min_length=1, description="Claim that is the principal's name.")
    admin_claim: str | None = Field(
        default=None, min_length=1, description="Claim that makes an admin, if `jwt_admin_value` is in it."
    )
    admin_value: str = Field(default="portico-admin", min_length=1, description="See `jwt_admin_claim`.")

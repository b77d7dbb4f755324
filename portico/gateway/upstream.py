"""The model API: its address, the way to reach it, and the credential for it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import certifi
import httpx

from portico.core.errors import Unavailable
from portico.gateway.api_errors import Raw

API = "https://api.anthropic.com"
API_HOST = "api.anthropic.com"

POOL = httpx.Limits(max_connections=1024, max_keepalive_connections=64, keepalive_expiry=30.0)
TIMES = {"connect": 30.0, "write": 60.0, "read": 660.0, "pool": 30.0}
"""Seconds. The CLI itself waits for 600 at most between two reads."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The model API. ``environment`` is the part of the server's that agents get; it names proxies and CA files."""

    base_url: str = API
    api_key: str | None = field(default=None, repr=False)
    oauth_token: str | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_the_api(self) -> bool:
        """True for the API itself, false for a proxy of it, to which the CLI sends less."""
        return urlsplit(self.base_url).hostname == API_HOST

    def request(self, path: str, query: str, headers: list[Raw], body: AsyncIterable[bytes]) -> httpx.Request:
        """Make a POST of ``body`` with the credential. ``headers`` contain no credential, Host or Accept-Encoding."""
        url = self.base_url.rstrip("/") + path + (f"?{query}" if query else "")
        identity = (b"accept-encoding", b"identity")  # compressed data would arrive late, and could not be counted
        return httpx.Request(
            "POST", url, headers=[*headers, identity, self._credential()], content=body, extensions={"timeout": TIMES}
        )

    def _credential(self) -> Raw:
        """Return the credential; of two, the one that CLI 2.1.330 itself prefers."""
        if self.oauth_token is not None:
            return (b"authorization", b"Bearer " + self.oauth_token.encode())
        return (b"x-api-key", (self.api_key or "").encode())

    def connect(self) -> httpx.AsyncHTTPTransport:
        """Make a pool of connections. Reads CA files. Raises `Unavailable` for an unusable CA file or proxy."""
        url = urlsplit(self.base_url)
        proxy = self._proxy(url.scheme, url.hostname or "")
        try:
            context = self._tls() if url.scheme == "https" or (proxy or "").startswith("https:") else False
            return httpx.AsyncHTTPTransport(
                verify=context, trust_env=False, limits=POOL, proxy=httpx.Proxy(proxy) if proxy else None
            )
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
            detail = f"the model API can't be reached this way, by the proxy and CA variables of agent_env: {error}"
            raise Unavailable(detail, code="gateway_unusable") from error

    def _proxy(self, scheme: str, host: str) -> str | None:
        """Choose the proxy as curl and the CLI do, lower-case names first; None for no proxy."""
        if proxy_bypass_environment(host, {"no": self._named("no_proxy") or ""}):
            return None
        proxy = self._named(f"{scheme}_proxy") or self._named("all_proxy")
        return f"http://{proxy}" if proxy and "://" not in proxy else proxy

    def _named(self, name: str) -> str | None:
        return self.environment.get(name) or self.environment.get(name.upper())

    def _tls(self) -> ssl.SSLContext:
        file, folder = self.environment.get("SSL_CERT_FILE"), self.environment.get("SSL_CERT_DIR")
        if not file and not folder:
            file = certifi.where()
        context = ssl.create_default_context(cafile=file or None, capath=folder or None)
        if extra := self.environment.get("NODE_EXTRA_CA_CERTS"):
            context.load_verify_locations(cadata=Path(extra).read_text())
        return context

"""The model API: where it is, how it is reached, and with which credential."""

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
"""Seconds. Between two reads the CLI itself waits for 600 at most."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """``environment`` is what agents may have of the server's: of it come proxies and CA files."""

    base_url: str = API
    api_key: str | None = field(default=None, repr=False)
    oauth_token: str | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_the_api(self) -> bool:
        """Whether it is the API itself: to a proxy of it the CLI says less."""
        return urlsplit(self.base_url).hostname == API_HOST

    def request(self, path: str, query: str, headers: list[Raw], body: AsyncIterable[bytes]) -> httpx.Request:
        """A POST of ``body``, with the credential. ``headers`` hold none, nor Host and Accept-Encoding."""
        url = self.base_url.rstrip("/") + path + (f"?{query}" if query else "")
        identity = (b"accept-encoding", b"identity")  # what is compressed would come late, and could not be counted
        return httpx.Request(
            "POST", url, headers=[*headers, identity, self._credential()], content=body, extensions={"timeout": TIMES}
        )

    def _credential(self) -> Raw:
        """Of both, the one that CLI 2.1.330 itself prefers."""
        if self.oauth_token is not None:
            return (b"authorization", b"Bearer " + self.oauth_token.encode())
        return (b"x-api-key", (self.api_key or "").encode())

    def connect(self) -> httpx.AsyncHTTPTransport:
        """A pool of connections. Reads CA files. Raises `Unavailable` for those, or a proxy, that can't be used."""
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
        """As curl and the CLI choose it; the lower-case name first."""
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

"""Answers that a proxy on the way gives by itself, in words: which proxy it is, and which setting is the cause."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from portico.cli.client.request import visible

BODY: Mapping[str, str] = {
    "nginx": "client_max_body_size 32m;",
    "apache": "LimitRequestBody 33554432",
    "caddy": "request_body { max_size 32MiB }",
    "lighttpd": "server.max-request-size = 32768",
    "envoy": "max_request_bytes of its buffer filter",
}
HEAD: Mapping[str, str] = {
    "nginx": "large_client_header_buffers 4 32k;",
    "haproxy": "tune.bufsize 65536",
    "apache": "LimitRequestLine 32768",
    "lighttpd": "server.max-request-field-size = 32768",
    "varnish": "http_req_size and http_req_hdr_len",
    "envoy": "max_request_headers_kb: 96",
}
BEHIND: Mapping[str, str] = {
    "nginx": "proxy_pass",
    "haproxy": "the line server of its backend",
    "apache": "ProxyPass",
    "caddy": "reverse_proxy",
    "lighttpd": "proxy.server",
    "varnish": "its backend",
    "envoy": "its cluster",
}
PATIENCE: Mapping[str, str] = {
    "nginx": "proxy_read_timeout 3600s;",
    "haproxy": "timeout server 1h",
    "apache": "ProxyTimeout 3600",
    "caddy": "no response_header_timeout",
    "varnish": "first_byte_timeout",
    "envoy": "timeout: 0s on its route",
}
"""The settings of each proxy, by the name in its header Server."""

CAUSES: Mapping[int, tuple[str, Mapping[str, str]]] = {
    413: ("what was sent is too large for it: there, set", BODY),
    414: ("the URL is too long for it: there, set", HEAD),
    431: ("the request's head is too long for it: there, set", HEAD),
    502: ("it does not get through to the server. Is that running? There, check", BEHIND),
    503: ("it has no server to pass this on to. Is that running? There, check", BEHIND),
    504: ("the server did not answer it in time: there, set", PATIENCE),
}
MAX_NAME = 64


def code_of(response: httpx.Response) -> str | None:
    """Return the code of the problem that the server answers with; None if something else has answered."""
    try:
        problem = response.json()
        return str(problem["code"])
    except (ValueError, LookupError, TypeError):
        return None


def name_of(response: httpx.Response) -> str | None:
    """Return the name of the program that has answered, for people; None if it does not say."""
    if said := response.headers.get("server") or response.headers.get("via"):
        return visible(said[:MAX_NAME])
    # HAProxy's own answers have no header Server.
    try:
        return "HAProxy, it seems" if response.content.startswith(b"<html><body><h1>") else None
    except httpx.ResponseNotRead:
        return None


def describe(response: httpx.Response, where: str) -> str | None:
    """Say which proxy has answered a request to ``where``, and why; None for a status that tells nothing of proxies."""
    if (cause := CAUSES.get(response.status_code)) is None:
        return None
    why, settings = cause
    name = name_of(response)
    known = [setting for proxy, setting in settings.items() if name is not None and proxy in name.lower()]
    what = f"`{known[0]}`" if known else ", ".join(f"`{each}` ({proxy})" for proxy, each in settings.items())
    who = f"a proxy ({name})" if name else "a proxy"
    return f"{who} on the way to {where} answers {response.status_code} by itself: {why} {what}"

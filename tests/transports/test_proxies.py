"""The proxies that the server believes about the caller's address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.transports.proxies import ProxyHeaders
from tests.support.accesslog import access_lines
from tests.support.limits import HANG_SECONDS
from tests.support.serving import serving

pytestmark = pytest.mark.anyio

PROXY = ("10.0.0.1", 1234)
TRUSTED = ("10.0.0.0/8", "2001:db8::/32")


@pytest.mark.parametrize(
    ("client", "forwarded", "seen"),
    [
        (PROXY, ["192.0.2.1"], "192.0.2.1"),
        (PROXY, ["192.0.2.1:80"], "192.0.2.1"),
        (PROXY, ["[2001:db9::1]:80"], "2001:db9::1"),
        (PROXY, ["2001:db9::1"], "2001:db9::1"),
        (PROXY, ["203.0.113.9, 192.0.2.1"], "192.0.2.1"),  # the first is what the client has made up
        (PROXY, ["203.0.113.9", "192.0.2.1"], "192.0.2.1"),
        (PROXY, ["192.0.2.1, 10.0.0.2, 2001:db8::2"], "192.0.2.1"),  # two of ours, one behind the other
        (PROXY, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (PROXY, ["192.0.2.1, <script>"], "10.0.0.1"),
        (PROXY, ["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
        (PROXY, ["fe80::1%\x7fevil"], "10.0.0.1"),
        (PROXY, ["::ffff:192.0.2.1"], "192.0.2.1"),
        (PROXY, [""], "10.0.0.1"),
        (PROXY, [], "10.0.0.1"),
        (("2001:db8::7", 1), ["192.0.2.1"], "192.0.2.1"),
        (("192.0.2.7", 1), ["10.0.0.9"], "192.0.2.7"),
        (("192.0.2.7", 1), ["203.0.113.9"], "192.0.2.7"),
        (None, ["192.0.2.1"], None),
    ],
)
async def test_the_client_is_the_last_that_is_none_of_ours(
    client: tuple[str, int] | None, forwarded: list[str], seen: str | None
) -> None:
    scope = await taken(TRUSTED, client, [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded])
    assert (scope["client"] and scope["client"][0]) == seen


@pytest.mark.parametrize(
    ("kind", "said", "scheme"),
    [
        ("http", [b"https"], "https"),
        ("http", [b"HTTPS"], "https"),
        ("websocket", [b"https"], "wss"),
        ("http", [b"http", b"https"], "https"),
        ("http", [b"javascript"], "http"),
        ("http", [b"https, "], "http"),
    ],
)
async def test_the_scheme_is_what_the_last_proxy_says(kind: str, said: list[bytes], scheme: str) -> None:
    fields = [(b"x-forwarded-proto", value) for value in said]
    assert (await taken(TRUSTED, PROXY, fields, kind))["scheme"] == scheme
    stranger = await taken(TRUSTED, ("192.0.2.7", 1), fields, kind)
    assert stranger["scheme"] == "http"


async def test_through_a_unix_socket_only_if_that_is_said() -> None:
    fields = [(b"x-forwarded-for", b"192.0.2.1")]
    assert (await taken(("unix",), None, fields))["client"] == ("192.0.2.1", 0)
    assert (await taken(("unix",), PROXY, fields))["client"] == PROXY


async def taken(
    trusted: tuple[str, ...], client: tuple[str, int] | None, headers: list[tuple[bytes, bytes]], kind: str = "http"
) -> dict[str, Any]:
    """Return the request as the app sees it."""
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)

    scope = {"type": kind, "scheme": "http", "client": client, "headers": headers, "path": "/claude/sessions"}
    await ProxyHeaders(app, trusted)(scope, None, None)  # type: ignore[arg-type]
    return seen


async def test_a_proxy_that_does_not_say_who_is_calling_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    behind = ProxyHeaders(app, (*TRUSTED, "unix"))

    async def ask(client: Any, headers: dict[str, bytes], path: str = "/claude/sessions") -> list[str]:
        fields = [(f"x-forwarded-{name}".encode(), value) for name, value in headers.items()]
        scope = {"type": "http", "scheme": "http", "client": client, "headers": fields, "path": path}
        caplog.clear()
        await behind(scope, None, None)  # type: ignore[arg-type]
        return caplog.messages

    assert not await ask(("192.0.2.7", 1), {}), "it is no proxy"
    assert not await ask(PROXY, {"for": b"192.0.2.7"})
    assert not await ask(PROXY, {}, "/healthz"), "it asks this for itself"
    (told,) = await ask(PROXY, {"for": b"unknown"})
    assert "10.0.0.1" in told and "proxy_set_header X-Forwarded-For $remote_addr;" in told
    assert not await ask(PROXY, {}) and not await ask(None, {})
    (told,) = await ask(PROXY, {"for": b"192.0.2.7", "prefix": b"//evil.example"})
    assert "X-Forwarded-Prefix" in told and "'//evil.example'" in told
    assert not await ask(PROXY, {"for": b"192.0.2.7", "prefix": b"//other.example"})


@pytest.mark.parametrize(("proxies", "seen"), [((), "127.0.0.1"), (("127.0.0.1/32",), "192.0.2.1")])
async def test_the_log_names_who_is_calling(tmp_path: Path, proxies: tuple[str, ...], seen: str) -> None:
    async with serving(tmp_path, proxies=proxies) as served:
        with access_lines() as lines, anyio.fail_after(HANG_SECONDS):
            await served.client.get("/claude/sessions", headers={"X-Forwarded-For": "192.0.2.1"})
            record = await lines.wait("/claude/sessions")
            assert record.__dict__["client"] == seen and record.getMessage().endswith(f" from {seen}")

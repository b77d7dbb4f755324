from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from portico.transports.hosts import LOOPBACK
from tests.support.serving import serving
from tests.support.websocket import talking

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mounted", [False, True], ids=["alone", "mounted"])]

APP = "https://app.example"
TABLE = [
    # Origin, Sec-Fetch-Site, whether it may change things
    (None, None, True),
    (None, "none", True),
    (None, "same-origin", True),
    (None, "same-site", False),
    (None, "cross-site", False),
    (APP, "cross-site", True),
    ("http://{host}", "same-origin", True),
    ("https://{host}", None, True),
    ("http://localhost:1", "same-site", False),
    ("http://evil.example", None, False),
    ("https://app.example.evil.example", None, False),
    ("http://app.example", None, False),
    ("https://APP.example", None, False),
    ("ftp://{host}", None, False),
    ("{host}", None, False),
    ("null", None, False),
    ("", None, False),
]


def headers_of(origin: str | None, site: str | None, host: str) -> dict[str, str]:
    headers = {} if origin is None else {"Origin": origin.format(host=host)}
    return headers | ({} if site is None else {"Sec-Fetch-Site": site})


@pytest.mark.parametrize(("origin", "site", "may"), TABLE)
async def test_pages_of_other_origins_change_nothing_and_read_nothing(
    tmp_path: Path, mounted: bool, origin: str | None, site: str | None, may: bool
) -> None:
    async with serving(tmp_path, origins={APP}, mounted=mounted) as served:
        await served.session()
        headers = headers_of(origin, site, served.client.base_url.netloc.decode())
        asked = [
            ("POST", "/claude/sessions", {}, 201),
            ("POST", "/claude/stream/s", {"query": "x"}, 200),
            ("GET", "/claude/stream/s?query=x", None, 200),
            ("DELETE", "/claude/sessions/s", None, 204),
        ]
        for method, path, body, status in asked:
            answer = await served.client.request(method, path, json=body, headers=headers)
            assert answer.status_code == (status if may else 403), path
            if not may:
                assert answer.json()["code"] == "origin_not_allowed"
        read = await served.client.get("/claude/sessions", headers=headers)
        assert read.status_code == 200
        for seen in (answer, read):
            assert seen.headers.get("access-control-allow-origin") == (APP if origin == APP else None)


@pytest.mark.parametrize(("origin", "site", "may"), TABLE)
async def test_websockets_of_other_origins_are_refused_at_the_handshake(
    tmp_path: Path, mounted: bool, origin: str | None, site: str | None, may: bool
) -> None:
    async with serving(tmp_path, origins={APP}, mounted=mounted) as served:
        await served.session()
        headers = headers_of(origin, site, served.client.base_url.netloc.decode())
        if may:
            async with talking(served.url, headers=headers) as client:
                await client.send("hi")
                await client.until("complete")
            return
        with pytest.raises(InvalidStatus) as refused:
            async with talking(served.url, headers=headers):
                pass
        assert refused.value.response.status_code == 403
        assert b"origin_not_allowed" in (refused.value.response.body or b"")


@pytest.mark.parametrize("origins", [(), (APP,)])
async def test_a_browser_that_asks_first_is_told(tmp_path: Path, mounted: bool, origins: tuple[str, ...]) -> None:
    async with serving(tmp_path, origins=origins, mounted=mounted) as served:
        del served.client.headers["authorization"]
        ask = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, last-event-id",
        }
        ours = await served.client.options("/claude/sessions", headers={"Origin": APP, **ask})
        assert ours.status_code == (200 if origins else 403)
        if origins:
            assert ours.headers["access-control-allow-origin"] == APP
            assert "POST" in ours.headers["access-control-allow-methods"]
        other = await served.client.options("/claude/sessions", headers={"Origin": "https://evil.example", **ask})
        assert (other.status_code, other.json()["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in other.headers


async def test_pages_that_may_see_problems_and_streams_too(tmp_path: Path, mounted: bool) -> None:
    async with serving(tmp_path, origins={APP}, mounted=mounted) as served:
        await served.session()
        for path, status in (("/claude/sessions/none", 404), ("/claude/stream/s?query=x", 200)):
            answer = await served.client.get(path, headers={"Origin": APP})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, APP)
        unknown = await served.client.get("/claude/sessions", headers={"Origin": APP, "authorization": "Bearer no"})
        assert (unknown.status_code, unknown.headers["access-control-allow-origin"]) == (401, APP)


NAME = "https://portico.example"


@pytest.mark.parametrize(
    ("host", "origin", "forwarded", "said"),
    [
        (
            "127.0.0.1:8787",
            NAME,
            "portico.example",
            "is the server's own, but a proxy has rewritten Host to 127.0.0.1:8787",
        ),
        ("127.0.0.1:8787", NAME, None, f"if {NAME} is this server's own name, a proxy has rewritten Host"),
        ("[::1]:8787", NAME, None, f"if {NAME} is"),
        ("localhost", NAME, "evil.example", f"if {NAME} is"),
        ("portico.example", f"{NAME}:8443", None, f"if {NAME}:8443 is"),
        ("portico.example", "https://evil.example", None, None),
        ("portico.example", "https://evil.example", "portico.example", None),
        ("127.0.0.1:8787", "http://localhost:3000", None, None),
        ("portico:8787", "http://localhost:3000", "another.example", "if http://localhost:3000 is"),
        ("127.0.0.1:8787", "null", None, None),
        ("127.0.0.1:8787", None, None, None),
    ],
)
async def test_a_proxy_that_rewrites_host_is_named(
    tmp_path: Path, mounted: bool, host: str, origin: str | None, forwarded: str | None, said: str | None
) -> None:
    headers = {"Host": host, "Origin": origin, "X-Forwarded-Host": forwarded}
    given = {name: value for name, value in headers.items() if value} | {"Sec-Fetch-Site": "cross-site"}
    async with serving(tmp_path, mounted=mounted, hosts={*LOOPBACK, "portico.example", "portico"}) as served:
        refused = (await served.client.post("/claude/sessions", json={}, headers=given)).json()
        assert refused["code"] == "origin_not_allowed"
        assert ("rewritten" in refused["detail"]) == (said is not None)
        if said is not None:
            assert said in refused["detail"] and "proxy_set_header Host $http_host;" in refused["detail"]

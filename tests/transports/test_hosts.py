from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from portico.transports.hosts import ANY, LOOPBACK, allowed_names
from tests.support.serving import serving
from tests.support.websocket import talking

pytestmark = pytest.mark.anyio

PLACES = pytest.mark.parametrize("mounted", [False, True], ids=["alone", "mounted"])


@pytest.mark.parametrize(
    ("host", "further", "names"),
    [
        ("127.0.0.1", (), set()),
        ("127.0.0.2", (), {"127.0.0.2"}),
        ("Portico.Example", ("10.0.0.1",), {"portico.example", "10.0.0.1"}),
        ("fe80::1", ("::1",), {"[fe80::1]"}),
        ("0.0.0.0", (), set()),  # noqa: S104
        ("::", ("*",), {"*"}),
    ],
)
async def test_the_names_are_loopback_and_host_and_those_of_the_operator(
    host: str, further: tuple[str, ...], names: set[str]
) -> None:
    assert allowed_names(host, further) == LOOPBACK | names


@PLACES
@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8787", True),
        ("localhost.", True),
        ("127.0.0.1:1", True),
        ("[::1]", True),
        ("[::1]:8787", True),
        ("portico.example", True),
        ("Portico.Example:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example:8787", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.2", False),
        ("0.0.0.0", False),  # noqa: S104
        ("[::2]", False),
        ("::1", False),
        ("localhost:", True),
        ("localhost:x", False),
        ("localhost:1:2", False),
        ("localhost/", False),
        ("evil@localhost", False),
        ("", False),
        ("*", False),
    ],
)
async def test_who_asks_for_another_name_is_refused(tmp_path: Path, mounted: bool, host: str, allowed: bool) -> None:
    async with serving(tmp_path, hosts={*LOOPBACK, "portico.example"}, mounted=mounted) as served:
        await served.session()
        answer = await served.client.get("/claude/sessions", headers={"host": host})
        assert answer.status_code == (200 if allowed else 403)
        if not allowed:
            assert answer.json()["code"] == "host_not_allowed"
            assert (await served.client.get("/claude/sessions", headers={"host": host, "authorization": ""})).json()[
                "code"
            ] == "host_not_allowed"
        for path in ("/healthz", "/readyz"):
            assert (await served.client.get(path, headers={"host": host})).status_code == 200


@PLACES
@pytest.mark.parametrize("head", [b"", b"host: localhost\r\nhost: localhost\r\n", b"host: a b\r\n"])
async def test_there_is_exactly_one_host(tmp_path: Path, mounted: bool, head: bytes) -> None:
    async with serving(tmp_path, mounted=mounted) as served:
        path = served.client.base_url.join("claude/sessions").raw_path
        stream = await served.raw(b"GET %b HTTP/1.1\r\n" % path + head + b"\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 403 ")


async def test_a_star_is_any_name(tmp_path: Path) -> None:
    async with serving(tmp_path, hosts={ANY}) as served:
        assert (await served.client.get("/claude/sessions", headers={"host": "any.example"})).status_code == 200


@PLACES
async def test_websockets_are_refused_at_the_handshake(tmp_path: Path, mounted: bool) -> None:
    async with serving(tmp_path, hosts={"portico.example"}, mounted=mounted) as served:
        with pytest.raises(InvalidStatus) as refused:
            async with talking(served.url):
                pass
        response = refused.value.response
        assert (response.status_code, response.headers["content-type"]) == (403, "application/problem+json")
        assert b"host_not_allowed" in (response.body or b"")

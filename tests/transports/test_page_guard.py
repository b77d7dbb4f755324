"""A request that needs no token acts only if no web page can have sent it: `origin_unproven` otherwise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from portico.config.settings import Settings
from portico.core.principal import Principal
from portico.plugins.context import Context
from portico.plugins.manager import load_plugins
from portico.testing.background import background
from portico.testing.engine import scripted_engine
from tests.support.limits import HANG_SECONDS
from tests.support.serving import Served, serving

pytestmark = pytest.mark.anyio

APP = "https://app.example"
PROOF = {"X-Portico": "1"}
ACTING = ("/claude/stream/s?query=x", "/claude/sessions/s/context", "/claude/sessions/s/mcp", "/claude/models")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEXT = {"Content-Type": "text/plain;charset=UTF-8"}


class Everybody:
    """Knows every caller by where it comes from, as a Ziti service with a principal does."""

    name = "everybody"

    async def authenticate(self, secret: str | None) -> Principal | None:
        return Principal("alice") if secret in (None, "alice-secret") else None


@asynccontextmanager
async def open_to_all(folder: Path, **options: object) -> AsyncIterator[Served]:
    async with serving(folder, origins={APP}, authenticators=[Everybody()], **options) as served:  # type: ignore[arg-type]
        await served.session()
        del served.client.headers["authorization"]
        yield served


async def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and answer.json()["code"] == "origin_unproven"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ACTING)
async def test_an_image_or_a_link_of_any_page_acts_on_nothing(tmp_path: Path, path: str, method: str) -> None:
    """On plain HTTP and a name that is not loopback, browsers send neither an Origin nor Sec-Fetch-* with these."""
    async with open_to_all(tmp_path) as served:
        for headers in (
            {},
            {"Accept": "image/*"},
            {"Accept": "text/event-stream", "Last-Event-ID": ""},  # which counts as none: the query would run
            {"Authorization": "Basic YTpi"},
        ):
            answer = await served.client.request(method, path, headers=headers)
            if method == "HEAD":  # which starts no turn anyway
                assert answer.status_code == (405 if "stream" in path else 403)
            else:
                assert await refused(answer) and "X-Portico: 1" in answer.json()["detail"]
        session = (await served.client.get("/claude/sessions/s")).json()
        assert (session["turns"], session["queued"]) == (0, 0)


@pytest.mark.parametrize(
    "headers",
    [
        PROOF,
        {"Authorization": "Bearer alice-secret"},
        {"Idempotency-Key": "t"},
        {"Origin": APP},
        {"Sec-Fetch-Site": "same-origin"},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_a_get_that_no_page_can_have_sent_starts_a_turn(tmp_path: Path, headers: dict[str, str]) -> None:
    async with open_to_all(tmp_path) as served:
        answer = await served.client.get("/claude/stream/s?query=x", headers=headers)
        assert answer.status_code == 200 and '"type":"complete"' in answer.text


async def test_an_eventsource_with_a_ticket_asks_and_resumes(tmp_path: Path) -> None:
    async with open_to_all(tmp_path) as served:
        made = await served.client.post("/claude/sessions/s/tickets", json={"scope": "query"})
        url = f"/claude/stream/s?query=x&turn_id=t&ticket={made.json()['ticket']}"
        first = await served.client.get(url, headers={"Accept": "text/event-stream"})
        assert first.status_code == 200
        again = await served.client.get(url, headers={"Last-Event-ID": "2"})
        assert again.status_code == 200 and '"type":"query"' not in again.text


@pytest.mark.parametrize("headers", [FORM, TEXT, {"Content-Type": "multipart/form-data; boundary=x"}])
async def test_a_form_acts_on_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    async with open_to_all(tmp_path) as served:
        one = "/claude/sessions/s"
        for path in ("/claude/sessions", "/claude/stream/s", f"{one}/turns", f"{one}/interrupt", f"{one}/tickets"):
            for body in (b"", b'{"query": "x"}'):
                assert await refused(await served.client.post(path, content=body, headers=headers)), path
        assert len((await served.client.get("/claude/sessions")).json()["sessions"]) == 1
        assert (await served.client.get(one)).json()["turns"] == 0


async def test_programs_act_as_before(tmp_path: Path) -> None:
    async with open_to_all(tmp_path) as served:
        one = "/claude/sessions/s"
        assert (await served.client.post("/claude/stream/s", json={"query": "x"})).status_code == 200
        assert (await served.client.post(f"{one}/interrupt")).json()["code"] == "not_running"  # neither type nor body
        form = await served.client.post(f"{one}/interrupt", headers={**FORM, **PROOF})
        assert form.json()["code"] == "not_running"
        assert (await served.client.patch(one, json={"title": "x"})).status_code == 200
        assert (await served.client.get(f"{one}/events?live=false")).status_code == 200  # reading is no acting
        assert (await served.client.delete(one)).status_code == 204


async def test_where_a_token_is_needed_nothing_changes(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        assert (await served.client.get("/claude/stream/s?query=x")).status_code == 200


async def test_a_page_that_is_allowed_may_send_the_header(tmp_path: Path) -> None:
    async with open_to_all(tmp_path) as served:
        ask = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-portico"}
        assert (await served.client.options(ACTING[0], headers={"Origin": APP, **ask})).status_code == 200


async def test_through_a_proxy_before_a_unix_socket_a_name_of_a_strangers_acts_on_nothing(tmp_path: Path) -> None:
    """DNS rebinding: the page and the server have one name, which is not one of the server's."""
    uds = tmp_path / "socket"
    settings = Settings(data_dir=tmp_path, uds=uds, auth=("none",), allowed_hosts=("portico.example",))
    registry = load_plugins().registry
    context = Context(settings, tmp_path)
    context = context.with_authenticators(registry.authenticator("none")(context))
    transport = registry.transport("http")(context)
    async with scripted_engine(tmp_path) as engine, background() as tasks:
        await tasks.start(transport.serve, engine)
        through = httpx.AsyncHTTPTransport(uds=str(uds))
        async with httpx.AsyncClient(transport=through, base_url="http://localhost", timeout=HANG_SECONDS) as client:
            made = await client.post("/claude/sessions", json={"session_id": "s"}, headers={"Host": "whatever"})
            assert made.status_code == 201, "a program names what it likes"
            for host, status in (("evil.example", 403), ("portico.example", 201), ("localhost", 201)):
                headers = {"Host": host, "Origin": f"http://{host}"}
                answer = await client.post("/claude/sessions", json={}, headers=headers)
                assert answer.status_code == status, host
            made_up = {"Authorization": "Bearer made-up"}
            for headers in (PROOF, made_up, {"Idempotency-Key": "t"}, {"Sec-Fetch-Site": "same-origin"}):
                # To where it is from, a page may send any header with a GET, and there is no Origin.
                for path in ACTING:
                    answer = await client.get(path, headers={**headers, "Host": "evil.example"})
                    assert await refused(answer) and "allowed_hosts" in answer.json()["detail"]
            headers = {"Host": "evil.example", "Origin": "http://evil.example"}
            assert (await client.post("/claude/sessions", json={}, headers={**headers, **made_up})).status_code == 403
            assert (await client.get("/claude/sessions/s")).json()["turns"] == 0
            named = await client.get(ACTING[0], headers={"Host": "portico.example", **PROOF})
            assert named.status_code == 200
            with anyio.fail_after(HANG_SECONDS), pytest.raises(InvalidStatus) as caught:
                async with unix_connect(
                    str(uds), "ws://evil.example/claude/ws/s", additional_headers={"Origin": headers["Origin"]}
                ):
                    pass
            assert caught.value.response.status_code == 403

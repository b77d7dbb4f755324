"""The events of a real engine, as a receiver gets them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import click.testing
import portico_webhook
import pytest
from portico_webhook import Settings, WebhookObserver
from pydantic import SecretStr, ValidationError

from portico import Engine, Event, NewSession, NewTurn, Principal
from portico.testing import scripted_engine

pytestmark = pytest.mark.anyio

ADA = Principal("ada")
KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Receiver:
    """A receiver of posts to ``url``. ``answers`` are the statuses of the first requests; all others are accepted."""

    def __init__(self, answers: Sequence[int] = ()) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        left, posts = list(answers), self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(left.pop(0) if left else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    async def __aenter__(self) -> Receiver:
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    async def __aexit__(self, *reason: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def events(self) -> list[dict[str, Any]]:
        return [event for _, body in self.posts for event in json.loads(body)["data"]["events"]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portico_webhook, "LONGEST_PAUSE", 0.01)


@asynccontextmanager
async def observed(folder: Path, url: str, **settings: Any) -> AsyncIterator[Engine]:
    given = Settings.model_validate({"url": url, "secret": SECRET, **settings})
    webhook = portico_webhook.Webhook(str(given.url), SecretStr(SECRET), given)
    observer = WebhookObserver(webhook, given.types)
    async with scripted_engine(folder, observers={"webhook": observer}) as engine:
        yield engine
    assert observer._client.is_closed


async def ask(engine: Engine, session_id: str = "s") -> Sequence[Event]:
    """Return all events of a session with one turn, once that is over."""
    await engine.create(ADA, NewSession(session_id=session_id))
    turn = await engine.query(ADA, session_id, NewTurn("two words"))
    reader = await engine.reader(ADA, session_id, turn_id=turn.turn_id)
    with anyio.fail_after(120):
        while await reader.read():
            pass
        while (await engine.session(ADA, session_id))["state"] != "idle":
            await anyio.sleep(0.01)
    events, _ = await engine.history(ADA, session_id, after=0, limit=1000)
    return events


def verify(headers: dict[str, str], body: bytes) -> None:
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    signature = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{signature}"
    assert headers["content-type"] == "application/json"


async def test_events_are_posted_signed_and_in_order(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        async with observed(tmp_path, receiver.url) as engine:
            events = [json.loads(event.data) for event in await ask(engine)]
        wanted = [event for event in events if event["type"] in ("session", "complete")]
        assert len(wanted) >= 3 and receiver.events()[: len(wanted)] == wanted
        for headers, body in receiver.posts:
            verify(headers, body)
            assert json.loads(body)["data"]["session"]["owner"] == "ada"
        ids = [headers["webhook-id"] for headers, _ in receiver.posts]
        assert len(set(ids)) == len(ids)


async def test_the_reference_library_verifies_it(tmp_path: Path) -> None:
    reference = pytest.importorskip("standardwebhooks")
    async with Receiver() as receiver:
        async with observed(tmp_path, receiver.url) as engine:
            await ask(engine)
        for headers, body in receiver.posts:
            assert reference.Webhook(SECRET).verify(body, headers)["type"] == "session.events"


async def test_types_choose(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        async with observed(tmp_path, receiver.url, types=["complete"]) as engine:
            await ask(engine)
        assert [event["type"] for event in receiver.events()] == ["complete"]


@pytest.mark.parametrize("status", [500, 503, 408, 429])
async def test_what_was_not_taken_is_posted_again_with_the_same_id(tmp_path: Path, status: int) -> None:
    async with Receiver([status, status]) as receiver:
        async with observed(tmp_path, receiver.url, types=["complete"]) as engine:
            await ask(engine)
        assert len({headers["webhook-id"] for headers, _ in receiver.posts}) == 1
        assert len(receiver.posts) == 3 and len({body for _, body in receiver.posts}) == 1


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (404, 1), (301, 1)])
async def test_what_is_never_taken_is_given_up_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, attempts: int
) -> None:
    async with Receiver([status] * attempts) as receiver:
        async with observed(tmp_path, receiver.url, types=["complete"], attempts=3) as engine:
            await ask(engine, "lost")
            await ask(engine, "found")
        assert [event["session_id"] for event in receiver.events()] == ["lost"] * attempts + ["found"]
    assert f"were not delivered: status {status}" in caplog.text and "1 events of the session lost from" in caplog.text
    assert receiver.url not in "".join(each.getMessage() for each in caplog.records if each.name == "portico_webhook")


async def test_who_is_not_there_is_nobodys_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Receiver() as receiver:
        pass
    with anyio.fail_after(120):
        async with observed(tmp_path, receiver.url, attempts=2) as engine:
            assert (await ask(engine))[-1].type == "session"
    assert "were not delivered: ConnectError" in caplog.text


def test_without_a_url_there_is_nothing_to_observe() -> None:
    context: Any = type("Context", (), {"plugin_settings": {"webhook": Settings.model_validate({})}})()
    assert portico_webhook.create(context) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "https://example.com"}, "a URL needs a secret too"),
        ({"secret": "whsec_short"}, "24 to 64 bytes"),
        ({"secret": "ü" * 40}, "24 to 64 bytes"),
        ({"url": "ftp://example.com"}, "URL scheme should be 'http' or 'https'"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate(given)


async def test_the_command_says_whether_a_message_was_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def run(*options: str) -> tuple[int, str]:
        invoke = click.testing.CliRunner().invoke
        done = await anyio.to_thread.run_sync(invoke, portico_webhook.webhook_test, [*options])
        return done.exit_code, done.output

    async with Receiver([204, 500]) as receiver:
        assert await run("--url", receiver.url, "--secret", SECRET) == (0, "It was taken.\n")
        verify(*receiver.posts[0])
        assert json.loads(receiver.posts[0][1])["type"] == "test"
        code, output = await run("--url", receiver.url, "--secret", SECRET)
        assert code == 1 and "it was not taken: status 500" in output
    code, output = await run("--url", receiver.url, "--secret", "whsec_short")
    assert code == 2 and "24 to 64 bytes" in output and "whsec_short" not in output

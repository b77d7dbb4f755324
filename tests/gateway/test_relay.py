"""Requests and replies that pass the gateway. The agent is a plain HTTP client; the model is the scripted one."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from portico.gateway import relay
from portico.gateway.door import MAX_CONNECTIONS
from portico.http1 import measured
from portico.plugins.demo.model_server import ServedModel, serve_model
from tests.support.gateway import KEY, answering, asking, gate
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def model() -> AsyncIterator[ServedModel]:
    async with serve_model() as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert "gateway/relay.py" not in "".join(record.exc_text or "" for record in caplog.get_records("call"))


def error_of(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert body["type"] == "error" and body["error"]["message"]
    return answer.status_code, body["error"]["type"]


async def test_the_credential_is_added_and_what_the_agent_says_of_its_own_is_dropped(
    model: ServedModel, tmp_path: Path
) -> None:
    own = {"x-api-key": "placeholder", "authorization": "Bearer mine", "cookie": "a=b", "proxy-authorization": "x"}
    async with gate(tmp_path, model.url) as through:
        told = {**own, "connection": "keep-alive, x-hop", "x-hop": "1", "anthropic-beta": "one,two"}
        answer = await through.ask({"say": "hello"}, headers=told)
        assert answer.json()["content"] == [{"type": "text", "text": "hello"}]
        assert answer.headers["request-id"] == "req_scripted"
        (call,) = model.model.requests
        assert (call.headers["x-api-key"], call.headers["anthropic-beta"]) == (KEY, "one,two")
        assert not {"authorization", "cookie", "proxy-authorization", "x-hop"} & call.headers.keys()
        assert call.headers["accept-encoding"] == "identity" and call.body == asking({"say": "hello"}, stream=False)


async def test_a_token_goes_out_as_a_bearer_and_wins_over_a_key(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url, oauth_token="the-token") as through:
        await through.ask({"say": "hello"})
        (call,) = model.model.requests
        assert call.headers["authorization"] == "Bearer the-token" and "x-api-key" not in call.headers
        assert through.door.environment.keys() >= {"ANTHROPIC_UNIX_SOCKET", "CLAUDE_CODE_OAUTH_TOKEN"}
        assert "the-token" not in str(through.door.environment)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/messages/batches", 404),
        ("POST", "/v1/files", 404),
        ("GET", "/v1/organizations/me", 404),
        ("POST", "/v1/%6dessages", 404),
        ("POST", "/v1/messages/../files", 404),
        ("POST", "//v1/messages", 404),
        ("POST", "/v1/messages?x=/../y", 404),
        ("POST", "http://elsewhere.example/v1/files", 404),
    ],
)
async def test_nothing_else_is_passed_on(
    model: ServedModel, tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with gate(tmp_path, model.url) as through:
        async with await anyio.connect_unix(through.door.path) as raw:
            await raw.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}".encode())
            head, _, body = (await raw.receive()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert json.loads(body or await raw.receive())["type"] == "error"
        assert not model.model.requests


async def test_counting_tokens_is_passed_on(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url) as through:
        assert (await through.http.post("/v1/messages/count_tokens", json={})).json() == {"input_tokens": 0}


async def test_the_answer_streams_and_its_end_is_not_waited_for(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url) as through:
        body = asking({"say": "one two three", "stall": 1})
        with anyio.fail_after(HANG_SECONDS):
            async with through.http.stream("POST", "/v1/messages", json=body) as answer:
                lines = answer.aiter_lines()
                async for line in lines:
                    if "content_block_delta" in line and "one" in line:
                        break  # while the model stalls
                model.model.release()
                assert [line async for line in lines if "message_stop" in line]


async def test_an_agent_that_leaves_ends_the_request_to_the_model(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url) as through:
        async with through.http.stream("POST", "/v1/messages", json=asking({"say": "one two", "stall": 1})) as answer:
            await anext(answer.aiter_lines())
            assert model.model._streams
        with anyio.fail_after(HANG_SECONDS):
            while model.model._streams:
                await anyio.sleep(0.01)


async def test_an_agent_that_leaves_before_the_answer_ends_it_too(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url) as through:
        with pytest.raises(httpx.ReadTimeout):
            await through.http.post("/v1/messages", json=asking({"stall": 0, "say": "x"}, stream=False), timeout=0.3)
        assert model.model.requests
        with anyio.fail_after(HANG_SECONDS):
            while model.model._streams:
                await anyio.sleep(0.01)


async def test_a_stream_that_is_cut_is_cut_for_the_agent_too(
    model: ServedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gate(tmp_path, model.url) as through:
        with pytest.raises(httpx.RemoteProtocolError):
            await through.ask({"say": "one two", "cut": 1}, stream=True)
        assert (await through.ask({"say": "back"})).status_code == 200
    assert caplog.text.count("without completing") == 1  # which the model itself is told


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (529, "overloaded_error")],
)
async def test_errors_of_the_model_pass_as_they_are(model: ServedModel, tmp_path: Path, status: int, kind: str) -> None:
    async with gate(tmp_path, model.url) as through:
        answer = await through.ask({"error": status, "headers": {"retry-after": "7"}})
        assert error_of(answer) == (status, kind) and answer.headers["retry-after"] == "7"


async def test_a_model_that_is_not_there_is_an_error_that_is_worth_a_retry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(b"") as (address, _):
        pass
    caplog.set_level(logging.DEBUG)
    async with gate(tmp_path, f"http://{address}") as through:
        assert error_of(await through.ask({"say": "secret words"})) == (502, "api_error")
    assert KEY not in caplog.text and "secret words" not in caplog.text


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", 502),
        (b"no HTTP at all\r\n\r\n", 502),
        (b"", 502),
    ],
)
async def test_what_is_no_answer_is_an_error(tmp_path: Path, said: bytes, status: int) -> None:
    async with answering(said) as (address, _), gate(tmp_path, f"http://{address}/base") as through:
        assert error_of(await through.ask({"say": "x"})) == (status, "api_error")


async def test_cookies_stay_here_and_base_paths_are_kept(tmp_path: Path) -> None:
    said = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\nx-else: 1\r\ncontent-length: 2\r\n\r\n{}"
    async with answering(said) as (address, heard), gate(tmp_path, f"http://{address}/base/") as through:
        answer = await through.ask({"say": "x"})
        assert answer.json() == {} and "set-cookie" not in answer.headers and answer.headers["x-else"] == "1"
        assert heard[0].startswith(b"POST /base/v1/messages?beta=true HTTP/1.1\r\n")


async def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(
    model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MAX_BODY", 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with gate(tmp_path, model.url) as through:
        for content in (b"x" * 2000, pieces()):
            assert error_of(await through.http.post("/v1/messages", content=content)) == (413, "request_too_large")
        assert not model.model.requests


async def test_a_head_without_end_ends_the_connection(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url) as through, await anyio.connect_unix(through.door.path) as raw:
        await raw.send(b"POST /v1/messages HTTP/1.1\r\n")
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)), anyio.fail_after(HANG_SECONDS):
            for _ in range(10_000):
                await raw.send(b"x-more: " + b"y" * measured.HEAD_BYTES + b"\r\n")


@pytest.mark.parametrize("piece", [b"x-more: y\r\n" * 5000, b"y" * 50_000], ids=["many", "one"])
async def test_trailers_without_end_end_the_connection(model: ServedModel, tmp_path: Path, piece: bytes) -> None:
    async with gate(tmp_path, model.url) as through, await anyio.connect_unix(through.door.path) as raw:
        await raw.send(b"POST /v1/messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: ")
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)), anyio.fail_after(HANG_SECONDS):
            for _ in range(1000):
                await raw.send(piece)


async def test_what_is_no_http_ends_the_connection(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url) as through, await anyio.connect_unix(through.door.path) as raw:
        await raw.send(b"\x16\x03\x01 not HTTP\r\n\r\n")
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)), anyio.fail_after(HANG_SECONDS):
            await raw.receive()


async def test_an_agent_has_so_many_connections_and_no_more(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url) as through:
        raws = [await anyio.connect_unix(through.door.path) for _ in range(MAX_CONNECTIONS + 1)]
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)), anyio.fail_after(HANG_SECONDS):
            await raws[-1].receive()
        for raw in raws:
            await raw.aclose()
        with anyio.fail_after(HANG_SECONDS):
            while through.door.connections:
                await anyio.sleep(0.01)
        assert (await through.ask({"say": "x"})).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(
    model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "BODY_SECONDS", 0.2)
    async with gate(tmp_path, model.url) as through, await anyio.connect_unix(through.door.path) as raw:
        await raw.send(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        with anyio.fail_after(HANG_SECONDS):
            assert (await raw.receive()).startswith(b"HTTP/1.1 408 ")


async def test_what_is_used_is_counted_for_the_agent_and_its_owner(model: ServedModel, tmp_path: Path) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 100}
    async with gate(tmp_path, model.url) as through:
        for stream in (True, False):
            await through.ask({"say": "x", "usage": usage}, stream=stream)
        used = through.door.account.usage()["claude-opus-5-5"]
        assert (used["input_tokens"], used["output_tokens"]) == (2000, 200)
        assert used["cost_usd"] == pytest.approx(2 * (1000 * 4 + 100 * 20) / 1e6)
        assert through.ledger.spent("alice") == pytest.approx(used["cost_usd"])
        through.door.hand_to("bob")
        await through.ask({"say": "x", "usage": usage})
        assert through.ledger.spent("bob") == pytest.approx(through.ledger.spent("alice") / 2)


async def test_a_spent_budget_refuses_the_next_request_and_cuts_none(model: ServedModel, tmp_path: Path) -> None:
    async with gate(tmp_path, model.url, budget=0.01) as through:
        body = asking({"say": "one two three", "stall": 1})
        async with through.http.stream("POST", "/v1/messages", json=body) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            await through.ask({"say": "x", "usage": {"input_tokens": 10_000}})
            refused = await through.ask({"say": "x"})
            assert error_of(refused) == (402, "budget_exceeded") and "alice" in refused.text
            assert refused.headers["x-should-retry"] == "false"
            assert (await through.http.post("/v1/messages/count_tokens", json={})).status_code == 200
            model.model.release()
            assert [line async for line in lines if "message_stop" in line]
        through.door.hand_to("bob")
        assert (await through.ask({"say": "x"})).status_code == 200

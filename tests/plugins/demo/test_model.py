"""The scripted model over real HTTP."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from portico.plugins.demo.model_server import ServedModel, serve_model
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def served() -> AsyncIterator[ServedModel]:
    async with serve_model() as served:
        yield served


@pytest.fixture
async def client(served: ServedModel) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.url, timeout=HANG_SECONDS, trust_env=False) as client:
        yield client


def asking(*messages: Any, stream: bool = True) -> dict[str, Any]:
    """A call's body: the messages are the user's and the assistant's by turns."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": content} for i, content in enumerate(messages)]
    return {"model": "m", "max_tokens": 100, "stream": stream, "messages": turns}


def parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]


async def stream(client: httpx.AsyncClient, *messages: Any) -> list[dict[str, Any]]:
    response = await client.post("/v1/messages", json=asking(*messages))
    assert response.status_code == 200, response.text
    return parsed(response.text)


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")


async def test_streams_plain_words_in_the_order_of_the_api(client: httpx.AsyncClient) -> None:
    events = await stream(client, "good morning")
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    assert len(kinds) > 20
    assert '"good morning"' in said(events)


async def test_answers_whole_when_not_asked_to_stream(client: httpx.AsyncClient) -> None:
    body = asking('[[{"think": "hm", "say": "a b", "usage": {"input_tokens": 5}}]]', stream=False)
    message = (await client.post("/v1/messages", json=body)).json()
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["content"][1]["text"] == "a b"
    assert message["usage"]["input_tokens"] == 5
    assert message["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"say": "a  b\n\nc "}, "a  b\n\nc "),
        ({"say": "x y", "words": 5}, "x y x y x"),
        ({"say": "x", "size": 5}, "x x x"),
        ({"say": "\u2028 שלום \U0001f600 e\u0301"}, "\u2028 שלום \U0001f600 e\u0301"),
        ({"say": "abcdef", "chunk": 4}, "abcdef"),
        ({"say": "brackets ]] in [[ it"}, "brackets ]] in [[ it"),
    ],
)
async def test_says_what_a_directive_asks(client: httpx.AsyncClient, step: dict[str, Any], text: str) -> None:
    assert said(await stream(client, f"please [[{json.dumps(step)}]] now")) == text


async def test_a_huge_reply_comes_in_large_deltas(client: httpx.AsyncClient) -> None:
    events = await stream(client, '[[{"size": 1000000}]]')
    assert len(said(events)) == 1_000_000
    assert len(events) < 100


async def test_finds_the_users_text_among_the_notes_of_the_cli(client: httpx.AsyncClient) -> None:
    blocks = [
        {"type": "text", "text": '<system-reminder>\n[[{"say": "wrong"}]]</system-reminder>'},
        {"type": "text", "text": '[[{"say": "right"}]]'},
        {"type": "text", "text": "<system-reminder>more</system-reminder>"},
        {"type": "text", "text": "[Request interrupted by user]"},
    ]
    assert said(await stream(client, "before", "ok", blocks)) == "right"


async def test_hears_what_a_user_says_while_a_turn_runs(client: httpx.AsyncClient) -> None:
    note = 'The user sent a new message while you were working:\n[[{"say": "steered"}]]\n\nThis is how Claude Code'
    body = asking('[[{"tool": {"name": "A"}}, {"say": "wrong"}]]', "...", [{"type": "tool_result"}])
    body["messages"].append({"role": "system", "content": "# Environment"})
    assert said(parsed((await client.post("/v1/messages", json=body)).text)) == "wrong"
    body["messages"].append({"role": "system", "content": note})
    assert said(parsed((await client.post("/v1/messages", json=body)).text)) == "steered"


async def test_long_texts_get_no_trick(client: httpx.AsyncClient) -> None:
    assert "scripted model" in said(await stream(client, "an error " + "and more " * 50))


async def test_a_step_answers_each_tool_round(client: httpx.AsyncClient) -> None:
    text = '[[{"say": "I look", "tool": [{"name": "A", "input": {"k": 1}}, {"name": "B"}]}, {"say": "seen"}]]'
    events = await stream(client, text)
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [(start["type"], start.get("name")) for start in starts] == [
        ("text", None),
        ("tool_use", "A"),
        ("tool_use", "B"),
    ]
    deltas = [event for event in events if event["type"] == "content_block_delta" and event["index"] == 1]
    assert json.loads("".join(event["delta"]["partial_json"] for event in deltas)) == {"k": 1}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]
    assert said(await stream(client, text, "...", result)) == "seen"
    assert said(await stream(client, text, "...", result, "...", result)) == "Done."


async def test_a_thinking_block_is_signed(client: httpx.AsyncClient) -> None:
    deltas = [event["delta"] for event in await stream(client, "please think") if "delta" in event]
    kinds = [delta.get("type") for delta in deltas]
    assert kinds[0] == "thinking_delta"
    assert kinds.index("signature_delta") < kinds.index("text_delta")


async def test_plain_words_ask_for_a_tool_and_for_an_error(client: httpx.AsyncClient) -> None:
    events = await stream(client, "write a file for me")
    assert any(event.get("content_block", {}).get("name") == "Write" for event in events)
    denied = [{"type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": True}]
    assert "left it alone" in said(await stream(client, "write a file for me", "...", denied))
    response = await client.post("/v1/messages", json=asking("now fail"))
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_an_error_lasts_as_long_as_asked(client: httpx.AsyncClient) -> None:
    step = {"error": 529, "times": 2, "say": "at last", "headers": {"retry-after": "1"}}
    body = asking(f"[[{json.dumps(step)}]]")
    for _ in range(2):  # the same text asked again fails again
        answers = [await client.post("/v1/messages", json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [529, 529, 200]
        assert answers[0].json()["error"]["type"] == "overloaded_error"
        assert answers[0].headers["retry-after"] == "1"


async def test_a_stream_is_cut(client: httpx.AsyncClient) -> None:
    body = asking('[[{"say": "one two three", "cut": 2, "times": 1}]]')
    received = ""
    with pytest.raises(httpx.RemoteProtocolError):
        async with client.stream("POST", "/v1/messages", json=body) as response:
            async for text in response.aiter_text():
                received += text
    assert said(parsed(received)) == "one two"
    assert said(parsed((await client.post("/v1/messages", json=body)).text)) == "one two three"


@pytest.mark.parametrize("deltas", [0, 1])
async def test_a_stalled_stream_goes_on_when_released(
    served: ServedModel, client: httpx.AsyncClient, deltas: int
) -> None:
    body = asking(f'[[{{"say": "one two", "stall": {deltas}}}]]')
    received = ""

    async def read(response: httpx.Response) -> None:
        nonlocal received
        async for text in response.aiter_text():
            received += text

    with anyio.fail_after(HANG_SECONDS):
        async with (
            client.stream("POST", "/v1/messages", json=body) as response,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(read, response)
            await anyio.sleep(0.2)
            assert said(parsed(received)) == "one"[: 3 * deltas]
            served.model.release()
    assert said(parsed(received)) == "one two"


async def test_stops_at_once_with_a_stream_stalled() -> None:
    with anyio.fail_after(HANG_SECONDS):
        async with httpx.AsyncClient(timeout=HANG_SECONDS, trust_env=False) as client:
            async with serve_model() as served:
                body = asking('[[{"say": "one two", "stall": 1}]]')
                request = client.build_request("POST", f"{served.url}/v1/messages", json=body)
                response = await client.send(request, stream=True)
            assert "message_stop" not in (await response.aread()).decode()
            with pytest.raises(httpx.ConnectError):
                await client.get(served.url)


async def test_stops_when_the_program_around_it_is_cancelled() -> None:
    with anyio.fail_after(HANG_SECONDS):
        async with httpx.AsyncClient(timeout=HANG_SECONDS, trust_env=False) as client:
            with anyio.CancelScope() as scope:
                async with serve_model() as served:
                    assert (await client.head(served.url)).status_code == 200
                    scope.cancel()
                    await anyio.sleep_forever()
            with pytest.raises(httpx.ConnectError):
                await client.get(served.url)


async def test_keeps_what_reached_it(served: ServedModel, client: httpx.AsyncClient) -> None:
    await client.post("/v1/messages", json=asking("hi"), headers={"x-api-key": "k"})
    await client.post("/v1/messages/count_tokens", json=asking("hi"))
    assert [call.path for call in served.model.requests] == ["/v1/messages", "/v1/messages/count_tokens"]
    assert served.model.requests[0].headers["x-api-key"] == "k"
    assert served.model.requests[0].body["max_tokens"] == 100
    for _ in range(200):
        await client.head("/")
    assert len(served.model.requests) == 100


@pytest.mark.parametrize("text", ['[[{"say": ]]', '[[{"say": "x"}]', '[[{"sey": "x"}]]', '[[{"cut": -1}]]'])
async def test_a_directive_that_cannot_be_read_is_an_error_that_says_why(client: httpx.AsyncClient, text: str) -> None:
    response = await client.post("/v1/messages", json=asking(text))
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("a directive ")


async def test_answers_rubbish_and_unknown_paths_with_an_error(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/messages", content=b"\xff{")).status_code == 400
    assert (await client.post("/v1/messages", json={"messages": "hi"})).status_code == 400
    for response in (await client.get("/v1/models"), await client.get("/v1/messages")):
        assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")
